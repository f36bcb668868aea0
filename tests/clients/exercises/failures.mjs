// Nine failures, one after the other, and what a person reads then.
import { BASE, KEY, MODEL, assert, knobs, proved, read } from './told.mjs';

// What happens, and how Kimi does it.
const FAILURES = [
  ['Kimi declines before the first word (moderation)', { fail: 'moderated_before' }],
  ['Kimi declines after some words', { fail: 'moderated', fail_after: 5, tokens: 30 }],
  ['the answer breaks off after some words', { fail: 'drop', fail_after: 5, tokens: 30 }],
  ['the conversation is too long for Kimi', { fail: 'too_long' }],
  ['Kimi fails (500)', { fail: 'http_500' }],
  ['Kimi is overloaded', { fail: 'overloaded' }],
  ['Kimi limits the only account (429)', { fail: 'stream_pushing' }],
  ['the token of the only account is dead', { fail: 'token_invalid' }],
];

// The account has had its rest, and a question is answered again.
async function recovered() {
  await knobs({});
  const body = JSON.stringify({ model: MODEL, messages: [{ role: 'user', content: 'Are you there?' }] });
  const headers = { 'Content-Type': 'application/json', Authorization: `Bearer ${KEY}` };
  for (let left = 200; ; left -= 1) {
    if ((await fetch(`${BASE}/chat/completions`, { method: 'POST', headers, body })).ok) return;
    assert.ok(left, 'the account does not answer any more');
    await new Promise((next) => setTimeout(next, 1000));
  }
}

// `shown(key)`: asks with this key of the gateway; what the program shows in the end.
export async function fail(shown, pace_s = 0) {
  for (const [name, way] of FAILURES) {
    await recovered();
    // Before the account is dead, because afterwards nothing is answered any more.
    if (way.fail === 'token_invalid') read('a wrong key of the gateway', await shown('sk-wrong'));
    await knobs({ think: '', delay_s: pace_s, ...way });
    read(name, await shown(KEY));
  }
  proved('error');
}
