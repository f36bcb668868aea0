// What the exercises in a window share: Chromium, a person's day in a chat, and the failures of failures.mjs read off the screen.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { fail } from './failures.mjs';
import { KEY, TEXT, THOUGHT, assert, knobs, proved } from './told.mjs';

// Without these Chromium would ask the internet for this and that all the time.
const QUIET = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--proxy-server=direct://', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost'];
export const LAUNCH = { executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: QUIET };

export const sleep = (ms) => new Promise((next) => setTimeout(next, ms));
export async function until(what, come, patience_s = 60) {
  const end = Date.now() + patience_s * 1000;
  for (;;) {
    const it = await come();
    if (it) return it;
    assert.ok(Date.now() < end, `did not come: ${what}`);
    await sleep(100);
  }
}

export const atKimi = async () => (await fetch(`${process.env.SIMULATOR_URL}/_sim/state`)).json();
const idle = () => until('the end of every stream', async () => (await atKimi()).open_streams === 0);
const digest = (bytes) => createHash('sha256').update(bytes).digest('hex');

// An image that people know at a glance: a sun over the sea, drawn by Chromium itself.
export async function drawn(browser, file) {
  const page = await browser.newPage({ viewport: { width: 240, height: 160 } });
  await page.setContent('<body style="margin:0;background:linear-gradient(#f7c873 60%,#2b6c8f 60%)"><div style="position:absolute;left:85px;top:40px;width:70px;height:70px;border-radius:50%;background:#e4572e">');
  writeFileSync(file, await page.screenshot());
  await page.close();
  return digest(readFileSync(file));
}

// A person's day. `chat` knows one program:
//   page, send(text), answer() the words of the last answer without its thinking, thinking() if it shows that, stop(),
//   again(), choose(model), fresh() a new conversation, words() all that tells of a failure, setKey(key)
// `streams`: it shows an answer while that is written.
// `pace_s`: Kimi's pause before each word of the first answer, for programs that show several words at a time.
export async function live(chat, { thinker, streams = true, pace_s = 0.25 }) {
  const says = async (text) => until(`the answer ${text}`, async () => (await chat.answer()).includes(text));

  await chat.choose(thinker);
  await knobs({ say: TEXT, think: THOUGHT, delay_s: pace_s });
  await chat.send('How is the tea? 茶怎么样？');
  const part = await until('the first words', async () => (await chat.answer()).includes('Tea') && chat.answer());
  await says(TEXT);
  proved('text');
  if (streams) {
    assert.ok(!part.includes(TEXT), part);
    proved('stream');
  }
  if (chat.thinking) {
    assert.ok((await chat.thinking()).includes(THOUGHT), await chat.thinking());
    proved('thinking');
  }
  await idle();

  await knobs({ say: 'I have not forgotten it.', think: '', delay_s: 0 });
  const before = (await atKimi()).turns;
  await chat.send('And the second cup?');
  await says('I have not forgotten it.');
  await until('the second turn', async () => (await atKimi()).turns > before);
  await knobs({ say: 'Said once more.' });
  await chat.again();
  await says('Said once more.');
  await idle();
  await knobs({});
  await knobs({ tokens: 600, delay_s: 0.1, think: '' });
  await chat.send('Tell me a long story.');
  await until('a stream', async () => (await atKimi()).open_streams > 0);
  await sleep(2000);
  // From here on Kimi answers at once, because some programs ask for a title now.
  await knobs({});
  const stopped = Date.now();
  await chat.stop();
  await until('the end at Kimi', async () => (await atKimi()).open_streams === 0, 10);
  proved('chat');
  proved('also', `Kimi's stream ends ${((Date.now() - stopped) / 1000).toFixed(1)} s after *stop*`);
  await knobs({});
}

// A picture for docs/, once what was shown for a moment is gone.
export async function pictured(page) {
  await sleep(4000);
  await page.screenshot({ path: `${process.env.HOME}/picture.png` });
}

// An image comes to Kimi. `chat` also has attach(file). `sent`: the digests of the images that left the program; some
// draw an image anew before they send it.
export async function see(chat, { seer, picture, sent }) {
  await knobs({ say: 'A red sun stands over the sea.', think: '' });
  await chat.fresh();
  await chat.choose(seer);
  await chat.attach(picture);
  await chat.send('What is in this picture?');
  await until('the answer', async () => (await chat.answer()).includes('A red sun stands over the sea.'));
  await idle();
  const arrived = (await atKimi()).uploads.map((upload) => upload.digest);
  const left = sent ? sent() : [digest(readFileSync(picture))];
  assert.ok(left.length && left.every((each) => arrived.includes(each)), JSON.stringify({ left, arrived }));
  proved('images');
}

// Ends when the page has no POST under way, and what it shows has stayed the same for three seconds. A program that gets
// its answers by another way has busy(): whether it still waits for one.
// `pace_s`: Kimi's pause before each word, for programs that lose the words that come just before a reply breaks off.
export async function failInWindow(chat, model, { pace_s = 0 } = {}) {
  const running = new Set();
  const over = (request) => running.delete(request);
  chat.page.on('request', (request) => request.method() === 'POST' && running.add(request));
  chat.page.on('requestfinished', over).on('requestfailed', over);
  // Of a reply that no script reads Chromium never says that it has ended.
  chat.page.on('response', (reply) => /event-stream/.test(reply.headers()['content-type']) || over(reply.request()));
  let key = KEY;
  await fail(async (wanted) => {
    if (wanted !== key) await chat.setKey(wanted);
    key = wanted;
    await chat.fresh();
    await chat.choose(model);
    await chat.send('Is the tea ready?');
    await sleep(1000);
    let last = await chat.words();
    for (let same = 0; same < 15; ) {
      await sleep(200);
      const now = await chat.words();
      same = now === last && !running.size && !(await chat.busy?.()) ? same + 1 : 0;
      last = now;
    }
    return last;
  }, pace_s);
}
