// LobeChat that already runs (LOBECHAT_URL), in Chromium, by the settings of docs/clients.md: its server asks the gateway.
import { existsSync, readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { LAUNCH, failInWindow, live, sleep, until } from './browser.mjs';
import { BASE, KEY, MODEL, THINKING, THOUGHT, version } from './told.mjs';

const url = process.env.LOBECHAT_URL;
const browser = await chromium.launch(LAUNCH);
const context = await browser.newContext({ viewport: { width: 1280, height: 720 }, locale: 'en-US' });
// The database in the page comes from the internet; here it comes from npm.
const database = new URL('node_modules/@electric-sql/pglite/dist/', import.meta.url);
await context.route(/\/pglite\/0\.2\.17\/files\/dist\/[\w.]+$/, (route) => {
  const file = new URL(route.request().url().split('/').at(-1), database);
  if (!existsSync(file)) return route.abort();
  const headers = { 'access-control-allow-origin': '*', 'content-type': file.href.endsWith('.wasm') ? 'application/wasm' : 'application/octet-stream' };
  return route.fulfill({ status: 200, headers, body: readFileSync(file) });
});
const page = await context.newPage();
page.setDefaultTimeout(60_000);
// A server in development builds each page when it is first asked for.
page.setDefaultNavigationTimeout(300_000);
// A question about usage data, after a while, above the buttons.
await page.addLocatorHandler(page.getByRole('button', { name: 'Deny', exact: true }), (deny) => deny.click());

const input = page.locator('[contenteditable=true]').first();
// In the head of the conversation; it comes after the database.
const model = page.getByText(/^(gpt-|k2$|kimi-)/).locator('visible=true').first();
const answers = page.locator('[data-layout="vertical"]');
const stop = page.locator('button:has(svg.anticon animateTransform)');
const goes = (words) => page.getByText(words, { exact: true }).first().click();
const opensProvider = async () => {
  await page.goto(`${url}/settings?active=provider&provider=openai`, { waitUntil: 'domcontentloaded' });
  await page.locator('#keyVaults_apiKey').waitFor({ timeout: 300_000 });
  await sleep(3000);
};
const opensChat = async () => {
  await page.locator('a[href="/chat"]').first().click();
  await model.waitFor({ timeout: 300_000 });
  await sleep(2000);
};
// It saves what was typed after a while; meanwhile its buttons rest.
const fill = async (field, words) => {
  const isAwake = () => page.getByRole('button', { name: 'Check', exact: true }).isEnabled();
  await page.locator(field).fill(words);
  await until('the saving', async () => !(await isAwake()), 10).catch(() => {});
  await until('a saved field', isAwake);
  await sleep(1000);
};
const fetchesModels = async () => {
  const fetched = page.waitForResponse(/webapi\/models/);
  await page.getByRole('button', { name: 'Fetch models' }).first().click();
  await sleep(3000);
  return (await fetched).ok();
};
const switchOn = async (name) => {
  await page.getByPlaceholder('Search Models...').fill(name);
  await page.keyboard.press('Enter');
  const row = page.getByText(name, { exact: true }).last().locator('xpath=ancestor::*[.//button[@role="switch"]][1]');
  await row.getByRole('switch').click();
  await until(`${name}, switched on`, async () => (await row.getByRole('switch').getAttribute('aria-checked')) === 'true');
  await sleep(3000);
};
// The models of the gateway stand below those that the program knows.
const pick = async (opener, name) => {
  await opener.click();
  // A list that was open before may still be in the page.
  const lists = page.locator('.ant-dropdown:not(.ant-dropdown-hidden), .ant-select-dropdown:not(.ant-select-dropdown-hidden)');
  await lists.getByText(name, { exact: true }).locator('visible=true').first().click();
  await sleep(1500);
};
const isBusy = async () => (await stop.count()) > 0;
const chat = {
  page,
  send: async (text) => {
    await until('the end of the last answer', async () => !(await isBusy()));
    const before = await answers.count();
    await input.click();
    await page.keyboard.insertText(text);
    await sleep(500);
    await page.keyboard.press('Enter');
    await until('a new answer', async () => (await answers.count()) > before);
  },
  answer: async () => ((await answers.count()) ? answers.last().innerText() : ''),
  // Folded once the answer comes.
  thinking: async () => {
    await until('the end of the answer', async () => !(await isBusy()));
    // Without the buttons of a server in development.
    await page.screenshot({ path: `${process.env.HOME}/picture.png`, style: 'nextjs-portal, .ant-float-btn { display: none }' });
    await answers.last().getByText(/^Deeply Thought/).click();
    await answers.last().getByText(THOUGHT).waitFor();
    return answers.last().innerText();
  },
  // Some failures stand folded below a sentence of the program.
  words: async () => {
    const details = answers.last().locator('.accordion-header').filter({ hasText: 'Show Details' }).first();
    if ((await details.count()) && !(await details.locator('xpath=following-sibling::*').count())) await details.click();
    return chat.answer();
  },
  busy: isBusy,
  stop: () => stop.click(),
  again: async () => {
    await until('the end of the answer', async () => !(await isBusy()));
    await answers.last().hover();
    await answers.last().locator('svg.lucide-ellipsis').click({ force: true });
    await page.getByRole('menuitem', { name: 'Regenerate', exact: true }).click();
  },
  choose: async (name) => (await model.innerText()) === name || pick(model, name),
  fresh: async () => {
    await until('the end of the last answer', async () => !(await isBusy()));
    if (await answers.count()) await page.locator('[aria-label="Open New Topic"]').first().click();
    await until('a new topic', async () => (await answers.count()) === 0);
  },
  setKey: async (key) => {
    await opensProvider();
    await fill('#keyVaults_apiKey', key);
    await opensChat();
    // It shows another model until it has read which one this conversation has.
    await until('the model of the conversation', async () => (await model.innerText()) === MODEL);
  },
};
try {
  await page.goto(`${url}/chat`, { waitUntil: 'domcontentloaded' });
  const enable = page.getByRole('button', { name: 'Enable Now' });
  await enable.or(model).first().waitFor({ timeout: 300_000 });
  if (await enable.isVisible()) await enable.click();
  await model.waitFor({ timeout: 300_000 });
  await opensProvider();
  await fill('#keyVaults_apiKey', KEY);
  await fill('#keyVaults_baseURL', BASE);
  await until('the models of the gateway', fetchesModels);
  for (const name of [MODEL, THINKING]) await switchOn(name);
  await goes('System Assistant');
  const naming = page.locator('.ant-select').locator('visible=true').first();
  await naming.waitFor();
  await sleep(2000);
  await pick(naming, MODEL);
  await goes('About');
  version(`${(await page.getByText(/^v\d+\.\d+\.\d+$/).first().innerText()).slice(1)}, Chromium ${browser.version()}`);
  await opensChat();
  await live(chat, { thinker: THINKING, pace_s: 1 });
  await failInWindow(chat, MODEL, { pace_s: 0.5 });
} catch (failure) {
  await page.screenshot({ path: `${process.env.HOME}/failure.png` });
  throw failure;
}
await browser.close();
