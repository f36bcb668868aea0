// The layer of Continue that speaks to a provider (@continuedev/openai-adapters), without an editor around it.
import { constructLlmApi } from '@continuedev/openai-adapters';
import { readFileSync } from 'node:fs';
import { PNG, arrived } from './attached.mjs';
import { fail } from './failures.mjs';
import { BASE, KEY, MODEL, TEXT, THINKING, THOUGHT, assert, calls, knobs, proved, version } from './told.mjs';

version(`openai-adapters ${JSON.parse(readFileSync(new URL('node_modules/@continuedev/openai-adapters/package.json', import.meta.url))).version}`);
const api = (apiKey = KEY) => constructLlmApi({ provider: 'openai', apiKey, apiBase: `${BASE}/` });
const signal = () => new AbortController().signal;

async function ask(content, { key, model = MODEL, ...more } = {}) {
  const seen = { pieces: [], thinking: '', calls: [], error: '' };
  try {
    for await (const chunk of api(key).chatCompletionStream({ model, messages: [{ role: 'user', content }], stream: true, ...more }, signal())) {
      const { delta, finish_reason: reason } = chunk.choices[0] ?? {};
      if (delta?.content) seen.pieces.push(delta.content);
      seen.thinking += delta?.reasoning_content ?? '';
      seen.calls.push(...(delta?.tool_calls ?? []));
      Object.assign(seen, { reason: reason ?? seen.reason, usage: chunk.usage ?? seen.usage });
    }
  } catch (error) {
    seen.error = error.message;
  }
  return { ...seen, text: seen.pieces.join('') };
}

await knobs({ say: TEXT, think: THOUGHT, delay_s: 0.1 });
const streamed = await ask('How is the tea?', { model: THINKING });
assert.equal(streamed.text, TEXT);
proved('text');
assert.ok(streamed.pieces.length > 1);
proved('stream');
assert.equal(streamed.thinking, THOUGHT);
proved('thinking');
assert.ok(streamed.usage.total_tokens > 0);
proved('usage');
const whole = await api().chatCompletionNonStream({ model: MODEL, messages: [{ role: 'user', content: 'Again' }] }, signal());
assert.equal(whole.choices[0].message.content, TEXT);

await knobs({});
const seen = await ask([{ type: 'text', text: 'What is it?' }, { type: 'image_url', image_url: { url: PNG.url } }]);
assert.equal(seen.error, '');
await arrived(PNG);
proved('images');

await calls('obey');
const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const tools = [{ type: 'function', function: { name: 'weather', description: 'The weather', parameters } }];
const called = await ask('Is it warm?', { tools });
assert.deepEqual(called.calls.map((call) => call.function?.name).filter(Boolean), ['weather']);
proved('also', 'a function is called');
await assert.rejects(api().embed({ model: MODEL, input: ['tea'] }), /404/);
proved('also', 'embeddings and fill-in-the-middle are 404');

await knobs({});
await fail(async (key) => {
  const { text, error } = await ask('Is the tea ready?', { key });
  return `${text} ${error}`;
});
