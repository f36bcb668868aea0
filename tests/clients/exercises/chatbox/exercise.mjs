// The layer of Chatbox that speaks to a provider (its class for "OpenAI API Compatible"), from a copy of its source that
// is already there (CHATBOX_SOURCE), without its window.
import { readFileSync, rmSync, symlinkSync } from 'node:fs';
import { register } from 'tsx/esm/api';
import { PNG, arrived } from './attached.mjs';
import { fail } from './failures.mjs';
import { BASE, KEY, MODEL, TEXT, THINKING, THOUGHT, assert, knobs, proved, version } from './told.mjs';

const source = process.env.CHATBOX_SOURCE;
version(JSON.parse(readFileSync(`${source}/release/app/package.json`)).version);
// Beside node_modules, because its source asks for these packages.
const link = new URL('chatbox', import.meta.url);
rmSync(link, { force: true });
symlinkSync(`${source}/src`, link);
register();
const { default: CustomOpenAI } = await import('./chatbox/shared/providers/definitions/models/custom-openai.ts');
const { ApiError } = await import('./chatbox/shared/models/errors.ts');

// What the window gives to the layer. A status that is no success becomes an error with the reply, as there.
const dependencies = {
  request: {
    apiRequest: async ({ url, method, headers, body, signal }) => {
      const reply = await fetch(url, { method, headers: { ...headers, 'Content-Type': 'application/json' }, body, signal });
      if (!reply.ok) throw new ApiError(`Status Code ${reply.status}`, await reply.text());
      return reply;
    },
  },
  sentry: { withScope: (act) => act({ setTag: () => {}, setExtra: () => {} }), captureException: () => {} },
  getRemoteConfig: () => ({}),
};

// It does not ask for token counts.
async function ask(content, { key = KEY, model = MODEL } = {}) {
  const options = { apiKey: key, apiHost: BASE, apiPath: '/chat/completions', model: { modelId: model, capabilities: ['vision', 'reasoning'] }, stream: true };
  const seen = { texts: [], thinking: '', error: '' };
  const note = ({ contentParts }) => {
    const of = (type) => contentParts.filter((part) => part.type === type).map((part) => part.text).join('');
    if (of('text') !== (seen.texts.at(-1) ?? '')) seen.texts.push(of('text'));
    seen.thinking = of('reasoning');
  };
  try {
    await new CustomOpenAI(options, dependencies).chat([{ role: 'user', content }], { onResultChange: note });
  } catch (error) {
    // Its window shows the reply where there is one.
    seen.error = error.responseBody || error.message;
  }
  return { ...seen, text: seen.texts.at(-1) ?? '' };
}

await knobs({ say: TEXT, think: THOUGHT, delay_s: 0.1 });
const streamed = await ask('How is the tea?', { model: THINKING });
assert.equal(streamed.error, '');
assert.equal(streamed.text, TEXT);
assert.ok(streamed.texts.length > 1);
assert.equal(streamed.thinking, THOUGHT);
await knobs({});
const { error } = await ask([{ type: 'text', text: 'What is it?' }, { type: 'image', image: PNG.base64, mediaType: 'image/png' }]);
assert.equal(error, '');
await arrived(PNG);
for (const fact of ['text', 'stream', 'thinking', 'images']) proved(fact);

await fail(async (key) => {
  const { text, error: words } = await ask('Is the tea ready?', { key });
  return `${text} ${words}`;
});
