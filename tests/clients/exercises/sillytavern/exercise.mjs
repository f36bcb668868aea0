// SillyTavern, started from its npm package and used in Chromium by the settings of docs/clients.md: its server asks
// the gateway.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';
import { LAUNCH, failInWindow, live, sleep, until } from './browser.mjs';
import { BASE, KEY, MODEL, THINKING, version } from './told.mjs';

const port = await new Promise((free) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => free(port));
  });
});
const package_ = new URL('node_modules/sillytavern/', import.meta.url);
const home = process.env.HOME;
const places = ['--port', port, '--dataRoot', `${home}/data`, '--configPath', `${home}/config.yaml`];
const program = spawn(process.execPath, ['server.js', ...places, '--browserLaunchEnabled', 'false'], {
  cwd: package_,
  stdio: ['ignore', process.stderr, process.stderr],
});
const url = `http://127.0.0.1:${port}`;
await until('the program', () => program.exitCode === null && fetch(url).then((reply) => reply.ok, () => false), 150);

const browser = await chromium.launch(LAUNCH);
const page = await browser.newPage({ viewport: { width: 1000, height: 720 }, locale: 'en-US' });
page.setDefaultTimeout(30_000);
version(`${JSON.parse(readFileSync(new URL('package.json', package_))).version}, Chromium ${browser.version()}`);

const drawer = async () => {
  await page.locator('#sys-settings-button .drawer-toggle').click();
  await sleep(500);
};
const connect = async (key) => {
  await drawer();
  await page.locator('#api_key_custom').fill(key);
  await page.locator('#api_button_openai').click();
  await sleep(3000);
  await drawer();
};
const last = page.locator('#chat .mes').last();
const chat = {
  page,
  send: async (text) => {
    await page.locator('#send_textarea').fill(text);
    await page.locator('#send_but').click();
  },
  answer: async () => ((await last.getAttribute('is_user')) === 'true' ? '' : last.locator('.mes_text').innerText()),
  thinking: async () => (await last.locator('.mes_reasoning').textContent()) ?? '',
  // What stands in the answer, and what has appeared in a corner, for some seconds.
  words: async () => [await chat.answer(), ...(await page.evaluate(() => globalThis.seen))].join(' '),
  stop: () => page.locator('#mes_stop').click(),
  again: async () => {
    await page.locator('#options_button').click();
    await page.locator('#option_regenerate').click();
  },
  choose: async (model) => {
    await drawer();
    await page.locator('#custom_model_id').fill(model);
    await page.locator('#custom_model_id').dispatchEvent('input');
    await drawer();
  },
  fresh: async () => {
    await page.evaluate(() => {
      globalThis.toastr.remove();
      globalThis.seen = [];
    });
    await page.locator('#options_button').click();
    await page.locator('#option_start_new_chat').click();
    await page.locator('dialog[open] .popup-button-ok').click();
    await until('a new conversation', async () => (await page.locator('#chat .mes[is_user="true"]').count()) === 0);
  },
  setKey: connect,
};
try {
  await page.goto(url);
  await page.locator('#send_textarea').waitFor({ timeout: 90_000 });
  const welcome = page.locator('dialog[open] .popup-button-ok');
  await sleep(3000);
  if (await welcome.count()) {
    await page.locator('dialog[open] textarea, dialog[open] input').first().fill('Ada');
    await welcome.first().click();
    await sleep(1000);
  }
  await page.evaluate(() => {
    globalThis.seen = [];
    const note = (node) => node.classList?.contains('toast') && globalThis.seen.push(node.innerText);
    new MutationObserver((changes) => changes.forEach((change) => change.addedNodes.forEach(note))).observe(document.body, { childList: true, subtree: true });
  });
  await drawer();
  await page.locator('#main_api').selectOption('openai');
  await page.locator('#chat_completion_source').selectOption('custom');
  await page.locator('#custom_api_url_text').fill(BASE);
  await drawer();
  await connect(KEY);
  await live(chat, { thinker: THINKING });
  await failInWindow(chat, MODEL);
} catch (failure) {
  await page.screenshot({ path: `${home}/failure.png` });
  throw failure;
}
await browser.close();
program.kill();
