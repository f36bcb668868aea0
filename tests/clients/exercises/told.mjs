// What an exercise is told by the runner, and how it tells what it has proven: told.py in JavaScript.
import assert from 'node:assert/strict';

export { assert };
export const GATEWAY = process.env.GATEWAY_URL;
export const BASE = `${GATEWAY}/v1`;
export const KEY = process.env.GATEWAY_KEY;
export const MODEL = 'k2';
export const THINKING = 'kimi-k2.6-thinking';
export const TEXT = 'Tea is ready: 茶好了。';
export const THOUGHT = 'First the water, then the leaves.';

export function prompt(words = {}) {
  const inside = Object.entries({ say: TEXT, think: THOUGHT, ...words }).map(([k, v]) => `${k}=${JSON.stringify(v)}`);
  return `Hello ${process.env.CANARY} [[sim ${inside.join(' ')}]]`;
}
export const slowly = () => prompt({ delay_s: 0.1 });
export const cutShort = () => prompt({ delay_s: 0.1, fail: 'drop', fail_after: 2 });

// Fails with a 502, on any account: the gateway asks twice, and says that it need not be asked again.
export const refused = () => prompt({ fail: 'error_unknown' });

// For clients whose questions are not ours to write.
export const knobs = (values) =>
  fetch(`${process.env.SIMULATOR_URL}/_sim/knobs`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(values) });

// What Kimi does when it is first to call a function, and how many calls that makes.
export const WAYS = [['obey', 1], ['parallel', 2], ['broken', 1]];

// From here on Kimi calls this function where it is offered, the first time in this way, and then says what it returned.
export async function calls(behaviour, name = 'weather', args = { city: 'Ulm' }) {
  await knobs({});
  await knobs({ tools: behaviour, tools_times: 1, call: name, args: JSON.stringify(args), think: '' });
}

export async function turns() {
  return (await (await fetch(`${process.env.SIMULATOR_URL}/_sim/state`)).json()).turns;
}

// How many requests went to a path of Kimi's, whether or not it answered.
export async function asks(path) {
  return (await (await fetch(`${process.env.SIMULATOR_URL}/_sim/requests?path_contains=${path}`)).json()).length;
}

// Within, Kimi is asked so many times: a failure that is permanent is not repeated by the client.
export async function asked(times, act) {
  const before = await turns();
  await act();
  assert.equal((await turns()) - before, times);
}

export const proved = (fact, words = '') => console.log(JSON.stringify({ proved: fact, words }));
// What a person reads when something went wrong.
export const read = (failure, words) => console.log(JSON.stringify({ read: failure, words }));
export const version = (of) => console.log(JSON.stringify({ version: of }));
