// Open WebUI, started as its manual says and used in Chromium: a question is typed, the answer is read off the screen.
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';
import { BASE, KEY, TEXT, THINKING, THOUGHT, WAYS, asks, assert, calls, knobs, proved, version } from './told.mjs';

const port = await new Promise((free) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => free(port));
  });
});
const settings = {
  OPENAI_API_BASE_URL: BASE,
  OPENAI_API_KEY: KEY,
  DEFAULT_MODELS: THINKING,
  ENABLE_OLLAMA_API: 'false',
  // Beside each answer it would ask for these, each in a Kimi chat of its own.
  ENABLE_TITLE_GENERATION: 'false',
  ENABLE_TAGS_GENERATION: 'false',
  ENABLE_FOLLOW_UP_GENERATION: 'false',
  // No model from a hub, no login.
  OFFLINE_MODE: 'true',
  RAG_EMBEDDING_ENGINE: 'openai',
  WEBUI_AUTH: 'False',
  WEBUI_SECRET_KEY: 'of this run',
  DATA_DIR: `${process.env.HOME}/data`,
};
const program = spawn('open-webui', ['serve', '--host', '127.0.0.1', '--port', String(port)], {
  env: { ...process.env, ...settings },
  stdio: ['ignore', process.stderr, process.stderr],
});
const url = `http://127.0.0.1:${port}`;
const until = async (what, come, patience_s) => {
  const end = Date.now() + patience_s * 1000;
  while (!(await come())) {
    assert.ok(Date.now() < end && program.exitCode === null, `did not come: ${what}`);
    await new Promise((next) => setTimeout(next, 200));
  }
};
await until('the program', () => fetch(`${url}/health`).then((reply) => reply.ok, () => false), 150);

const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...quiet, '--proxy-server=direct://'] });
const page = await browser.newPage({ viewport: { width: 900, height: 480 } });
page.setDefaultTimeout(60_000);
const { version: installed } = await (await fetch(`${url}/api/version`)).json();
version(`${installed}, Chromium ${browser.version()}`);

await page.goto(url);
const news = page.getByRole('button', { name: /let's go|okay/i });
const input = page.locator('#chat-input');
await input.or(news).first().waitFor();
if (await news.first().isVisible()) await news.first().click();

await knobs({ say: TEXT, think: THOUGHT, delay_s: 0.3 });
await input.click();
await page.keyboard.type('How is the tea? 茶怎么样？');
await page.keyboard.press('Enter');
const answer = page.locator('.chat-assistant').last();
await answer.getByText('Tea is', { exact: false }).waitFor();
const seen = await answer.innerText();
await answer.getByText(TEXT).waitFor();
assert.ok(!seen.includes(TEXT), seen);
proved('text');
proved('stream');
const fold = answer.getByText(/^Thought/).first();
await fold.click();
await answer.getByText(THOUGHT).waitFor();
proved('thinking');
// Once nothing moves any more.
await answer.getByText(TEXT).click({ trial: true });
await page.screenshot({ path: `${process.env.HOME}/picture.png` });

await knobs({ fail: 'too_long' });
await input.click();
await page.keyboard.type('And now?');
await page.keyboard.press('Enter');
await page.getByText(/too long/).first().waitFor();
proved('error');
assert.equal(await asks('ChatService/Chat'), 2);
proved('also', 'one Kimi chat per question, with its tasks switched off');

// A function of its own workspace, offered with the model. Its way of offering is the default one: as functions.
const weather = `class Tools:
    def weather(self, city: str) -> str:
        """
        The weather of a city.
        :param city: Its name.
        """
        return city + " has 18 degrees"
`;
const api = async (path, body, token) => {
  const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
  const reply = await fetch(`${url}/api/v1/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  assert.ok(reply.ok, `${path}: ${reply.status} ${await reply.clone().text()}`);
  return reply.json();
};
const { token } = await api('auths/signin', { email: '', password: '' });
await api('tools/create', { id: 'weather', name: 'Weather', content: weather, meta: { description: 'The weather' } }, token);
const model = { id: THINKING, base_model_id: null, name: THINKING, meta: { toolIds: ['weather'] }, params: {} };
await api('models/create', model, token);
for (const [way] of WAYS) {
  await calls(way);
  await page.goto(url);
  await input.waitFor();
  for (const question of ['What is the weather in Ulm?', 'And in an hour?']) {
    await input.click();
    await page.keyboard.type(question);
    await page.keyboard.press('Enter');
    await page.locator('.chat-user').getByText(question).waitFor();
    await page.locator('.chat-assistant').last().getByText(/Ulm has 18 degrees/).first().waitFor();
  }
}
proved('tools');
proved('also', 'a function of its workspace, beside its own functions');

await browser.close();
program.kill();
