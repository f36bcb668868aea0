// OpenAI's SDK in a page of another origin, in Chromium: preflight, streaming, and errors that the page can read.
import { build } from 'esbuild';
import { createServer } from 'node:http';
import { chromium } from 'playwright-core';
import { VERSION } from 'openai/version';
import { BASE, GATEWAY, KEY, MODEL, TEXT, assert, cutShort, prompt, proved, slowly, version } from './told.mjs';

const bundle = await build({ entryPoints: ['page.mjs'], bundle: true, format: 'esm', write: false, preserveSymlinks: true, absWorkingDir: import.meta.dirname });
const pages = createServer((request, response) => {
  const script = request.url === '/page.js';
  response.setHeader('Content-Type', script ? 'text/javascript' : 'text/html; charset=utf-8');
  response.end(script ? bundle.outputFiles[0].text : '<!doctype html><title>a page</title><script type="module" src="/page.js"></script>');
});
await new Promise((listening) => pages.listen(0, '127.0.0.1', listening));

// Without these Chromium would ask the internet for this and that all the time.
const quiet = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: [...quiet, '--proxy-server=direct://'] });
version(`${VERSION}, Chromium ${browser.version()}`);
const page = await browser.newPage();
const devtools = await page.context().newCDPSession(page);
await devtools.send('Network.enable');
const preflights = [];
devtools.on('Network.requestWillBeSent', ({ request }) => request.method === 'OPTIONS' && preflights.push(request));
const complaints = [];
page.on('pageerror', (error) => complaints.push(String(error)));
page.on('console', (message) => /CORS/.test(message.text()) && complaints.push(message.text()));

await page.goto(`http://127.0.0.1:${pages.address().port}/`);
await page.waitForFunction(() => 'ask' in globalThis);
const ask = (wish) => page.evaluate((wish) => globalThis.ask(wish), { baseURL: BASE, apiKey: KEY, model: MODEL, ...wish });

const whole = await ask({ text: prompt() });
assert.equal(whole.text, TEXT);
assert.ok(whole.requestId);
proved('text');
assert.ok(preflights.some(({ url }) => url.startsWith(GATEWAY)));
proved('also', 'CORS preflight');
proved('also', '`x-request-id` visible');

const streamed = await ask({ text: slowly(), stream: true });
assert.equal(streamed.text, TEXT);
assert.ok(streamed.pieces > 1);
proved('stream');

const wrongKey = await ask({ text: 'Hello', apiKey: 'sk-wrong' });
assert.deepEqual([wrongKey.error, wrongKey.status, Boolean(wrongKey.requestId)], ['AuthenticationError', 401, true]);
const tooLong = await ask({ text: prompt({ fail: 'too_long' }) });
assert.deepEqual([tooLong.error, tooLong.status, tooLong.code], ['BadRequestError', 400, 'context_length_exceeded']);
const nowhere = await ask({ text: 'Hello', baseURL: `${GATEWAY}/v1/nowhere` });
assert.deepEqual([nowhere.error, nowhere.status], ['NotFoundError', 404]);
proved('error');
const broken = await ask({ text: cutShort(), stream: true });
assert.deepEqual([broken.error, broken.text], ['APIError', 'Tea is r']);
proved('broken');

assert.deepEqual(complaints, []);
await browser.close();
pages.close();
