// Open WebUI, started as its manual says and used in Chromium: a question is typed, the answer is read off the screen.
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';
import { LAUNCH, drawn, failInWindow, live, see, sleep, until } from './browser.mjs';
import { BASE, KEY, MODEL, THINKING, THOUGHT, WAYS, asks, assert, calls, knobs, proved, version } from './told.mjs';

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
await until('the program', () => program.exitCode === null && fetch(`${url}/health`).then((reply) => reply.ok, () => false), 400);

const browser = await chromium.launch(LAUNCH);
const picture = `${process.env.HOME}/sea.png`;
await drawn(browser, picture);
const page = await browser.newPage({ viewport: { width: 900, height: 480 } });
page.setDefaultTimeout(60_000);
const { version: installed } = await (await fetch(`${url}/api/version`)).json();
version(`${installed}, Chromium ${browser.version()}`);

await page.goto(url);
const news = page.getByRole('button', { name: /let's go|okay/i });
const input = page.locator('#chat-input');
await input.or(news).first().waitFor();
if (await news.first().isVisible()) await news.first().click();

const api = async (path, body, token) => {
  const headers = { 'Content-Type': 'application/json', ...(token && { Authorization: `Bearer ${token}` }) };
  const reply = await fetch(`${url}/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
  assert.ok(reply.ok, `${path}: ${reply.status} ${await reply.clone().text()}`);
  return reply.json();
};
const { token } = await api('api/v1/auths/signin', { email: '', password: '' });
// What appears in a corner for some seconds, since the page was opened.
await page.addInitScript(() => {
  globalThis.seen = [];
  new MutationObserver(() => {
    for (const toast of document.querySelectorAll('[data-sonner-toast]')) if (!globalThis.seen.includes(toast.innerText)) globalThis.seen.push(toast.innerText);
  }).observe(document, { childList: true, subtree: true, characterData: true });
});
const answers = page.locator('.chat-assistant');
const stop = page.getByRole('button', { name: 'Stop', exact: true });
const chat = {
  page,
  send: async (text) => {
    await input.click();
    await page.keyboard.type(text);
    await page.keyboard.press('Enter');
  },
  answer: async () => ((await answers.count()) ? answers.last().innerText() : ''),
  thinking: async () => {
    const unfold = async () => {
      await answers.last().getByText(/^Thought/).first().click();
      await sleep(1500);
    };
    const isUnfolded = () => answers.last().getByText(THOUGHT).click({ trial: true, timeout: 1500 }).then(() => true, () => false);
    await until('the end of the answer', async () => (await stop.count()) === 0);
    await page.locator('.regenerate-response-button').last().waitFor({ state: 'attached' });
    await unfold();
    const words = await answers.last().innerText();
    // The program unfolds it too while it thinks: then the click has folded it.
    if (!(await isUnfolded())) await unfold();
    if (await isUnfolded()) await page.screenshot({ path: `${process.env.HOME}/picture.png` });
    return words;
  },
  stop: () => stop.last().click(),
  // The button for the keyboard, which does not ask how.
  again: () => page.evaluate(() => [...document.getElementsByClassName('regenerate-response-button')].at(-1).click()),
  attach: async (file) => {
    await page.locator('input[type=file]').first().setInputFiles(file);
    await page.locator('form img, #message-input-container img').first().waitFor();
  },
  choose: async (model) => {
    await page.goto(`${url}/?models=${model}`);
    await input.waitFor();
  },
  // `choose` begins a new conversation, too.
  fresh: async () => {},
  words: async () => {
    const answer = await chat.answer();
    const seen = await page.evaluate(() => globalThis.seen);
    return [answer, ...seen.filter((each) => !answer.includes(each))].join(' ');
  },
  busy: async () => (await stop.count()) > 0,
  // In the settings of the administrator.
  setKey: (key) => api('openai/config/update', { ENABLE_OPENAI_API: true, OPENAI_API_BASE_URLS: [BASE], OPENAI_API_KEYS: [key], OPENAI_API_CONFIGS: {} }, token),
};
// A function of its own workspace, offered with the model. Its way of offering is the default one: as functions.
const weather = `class Tools:
    def weather(self, city: str) -> str:
        """
        The weather of a city.
        :param city: Its name.
        """
        return city + " has 18 degrees"
`;
async function functions() {
  await api('api/v1/tools/create', { id: 'weather', name: 'Weather', content: weather, meta: { description: 'The weather' } }, token);
  const model = { id: THINKING, base_model_id: null, name: THINKING, meta: { toolIds: ['weather'] }, params: {} };
  await api('api/v1/models/create', model, token);
  for (const [way] of WAYS) {
    await calls(way);
    await chat.choose(THINKING);
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
}

try {
  await live(chat, { thinker: THINKING });
  assert.equal(await asks('ChatService/Chat'), 4);
  proved('also', 'one Kimi chat per question, with its tasks switched off');
  await see(chat, { seer: MODEL, picture });
  await functions();
  await failInWindow(chat, MODEL);
} catch (failure) {
  await page.screenshot({ path: `${process.env.HOME}/failure.png` });
  throw failure;
}
await browser.close();
program.kill();
