// NextChat that already runs (NEXTCHAT_URL), in Chromium, by the settings of docs/clients.md: the browser asks the gateway.
import { createHash } from 'node:crypto';
import { chromium } from 'playwright-core';
import { LAUNCH, drawn, failInWindow, live, pictured, see, until } from './browser.mjs';
import { GATEWAY, KEY, MODEL, THINKING, version } from './told.mjs';

const url = process.env.NEXTCHAT_URL;
const browser = await chromium.launch(LAUNCH);
const picture = `${process.env.HOME}/sea.png`;
await drawn(browser, picture);
const page = await (await browser.newContext({ viewport: { width: 1000, height: 720 }, locale: 'en-US' })).newPage();
page.setDefaultTimeout(30_000);
// NextChat draws an image anew as JPEG before it sends it; these are the bytes that left it.
const sent = [];
page.on('request', (request) => {
  for (const [, data] of (request.postData() ?? '').matchAll(/"url":"data:image\/[a-z]+;base64,([^"]+)"/g)) sent.push(createHash('sha256').update(Buffer.from(data, 'base64')).digest('hex'));
});

const setKey = async (key) => {
  await page.goto(`${url}/#/settings`);
  await page.getByLabel('OpenAI API Key').fill(key);
};
await page.goto(`${url}/#/settings`);
await page.getByText('Custom Endpoint').first().waitFor();
const custom = page.getByLabel('Custom Endpoint');
if (!(await custom.isChecked())) await custom.check();
await page.getByLabel('OpenAI Endpoint').fill(GATEWAY);
await setKey(KEY);
await page.getByLabel('Custom Models').fill(`-all,+${MODEL},+${MODEL}-vl,+${THINKING}`);
const installed = /Version: ([\w.]+)/.exec(await page.locator('body').innerText())?.[1] ?? 'unknown';
version(`${installed}, Chromium ${browser.version()}`);

const messages = page.locator('[class*="chat_chat-message__"]:not([class*="chat_chat-message-user__"])');
const item = () => messages.last().locator('[class*="chat_chat-message-item__"]').first();
const action = async (name) => {
  await messages.last().hover();
  await messages.last().locator('[class*="chat_chat-input-action__"]').filter({ hasText: name }).first().click({ force: true });
};
const chat = {
  page,
  send: async (text) => {
    const input = page.locator('textarea[class*="chat_chat-input__"]');
    await input.fill(text);
    await input.press('Enter');
  },
  answer: () => item().evaluate((node) => [...node.querySelectorAll('.markdown-body > :not(blockquote), .markdown-body > * > :not(blockquote)')].map((each) => each.innerText).join('\n')),
  thinking: () => item().locator('blockquote').first().innerText(),
  words: () => item().innerText(),
  stop: () => action('Stop'),
  again: () => action('Retry'),
  attach: async (file) => {
    const chooser = page.waitForEvent('filechooser');
    await page.locator('[class*="chat_chat-input-actions__"] [class*="chat_chat-input-action__"]').filter({ hasText: 'Upload Images' }).first().click({ force: true });
    await (await chooser).setFiles(file);
    await page.locator('[class*="chat_attach-image__"]').first().waitFor();
  },
  choose: async (model) => {
    const shown = page.locator('[class*="chat_chat-input-actions__"]').last();
    await shown.locator('[class*="chat_chat-input-action__"]').filter({ hasText: /^k(imi|2)/ }).first().click({ force: true });
    await page.locator('[class*="selector"] [class*="ui-lib_list-item__"]').filter({ hasText: new RegExp(`^${model.replaceAll('.', '\\.')}`) }).first().click();
    await page.locator('[class*="selector"]').waitFor({ state: 'detached' }).catch(() => {});
  },
  fresh: async () => {
    await page.goto(`${url}/#/new-chat`);
    await page.getByText('Just Start').first().click();
    await page.locator('textarea[class*="chat_chat-input__"]').waitFor();
  },
  setKey,
};
try {
  await chat.fresh();
  await until('the page', async () => (await messages.count()) > 0);
  await live(chat, { thinker: THINKING });
  await see(chat, { seer: `${MODEL}-vl`, picture, sent: () => sent });
  await pictured(page);
  await failInWindow(chat, MODEL);
} catch (failure) {
  await page.screenshot({ path: `${process.env.HOME}/failure.png` });
  throw failure;
}
await browser.close();
