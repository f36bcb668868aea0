// The layer of LibreChat that speaks to a provider (@librechat/agents), without its server and window.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { PNG, arrived } from './attached.mjs';
import { fail } from './failures.mjs';
import { BASE, KEY, MODEL, TEXT, THINKING, THOUGHT, assert, knobs, proved, turns, version } from './told.mjs';

// Its modules for `import` ask for a name of @opentelemetry/api that its lock file's version does not have.
const require = createRequire(import.meta.url);
const { HumanMessage } = require('@langchain/core/messages');
const { ChatModelStreamHandler, GraphEvents, Providers, Run } = require('@librechat/agents');

version(`agents ${JSON.parse(readFileSync(new URL('node_modules/@librechat/agents/package.json', import.meta.url))).version}`);

async function ask(content, { key = KEY, title = '', ...more } = {}) {
  const seen = { pieces: [], thinking: '', error: '' };
  const delta = (event, data) => {
    for (const part of data?.delta?.content ?? []) {
      if (part.think) seen.thinking += part.think;
      else if (part.text) seen.pieces.push(part.text);
    }
  };
  const configuration = { baseURL: BASE, apiKey: key };
  try {
    const run = await Run.create({
      runId: crypto.randomUUID(),
      graphConfig: {
        type: 'standard',
        instructions: 'Be kind.',
        llmConfig: { provider: Providers.OPENAI, model: MODEL, apiKey: key, configuration, streaming: true, streamUsage: true, maxRetries: 2, ...more },
      },
      returnContent: true,
      customHandlers: {
        [GraphEvents.CHAT_MODEL_STREAM]: new ChatModelStreamHandler(),
        on_message_delta: { handle: delta },
        on_reasoning_delta: { handle: delta },
      },
    });
    const contentParts = await run.processStream({ messages: [new HumanMessage({ content })] }, { runId: crypto.randomUUID(), configurable: { thread_id: 'one' }, streamMode: 'values', version: 'v2' });
    if (title) seen.title = await run.generateTitle({ provider: Providers.OPENAI, inputText: content, contentParts, clientOptions: { model: MODEL, apiKey: key, configuration }, titleMethod: title });
  } catch (error) {
    seen.error = error.message;
  }
  return { ...seen, text: seen.pieces.join('') };
}

for (const useResponsesApi of [false, true]) {
  await knobs({ say: TEXT, think: THOUGHT, delay_s: 0.1 });
  const streamed = await ask('How is the tea?', { model: THINKING, useResponsesApi });
  assert.equal(streamed.error, '');
  assert.equal(streamed.text, TEXT);
  assert.ok(streamed.pieces.length > 1);
  if (!useResponsesApi) assert.equal(streamed.thinking, THOUGHT);
}
for (const fact of ['text', 'stream', 'thinking']) proved(fact);
proved('also', 'chat completions and Responses');

await knobs({ say: 'Tea in Ulm', think: '' });
const before = await turns();
const { title } = await ask('How is the tea?', { title: 'completion' });
assert.match(JSON.stringify(title), /Tea in Ulm/);
assert.equal((await turns()) - before, 2);
proved('also', '`titleMethod: "completion"`: one more Kimi chat');

await knobs({});
const seen = await ask([{ type: 'text', text: 'What is it?' }, { type: 'image_url', image_url: { url: PNG.url } }]);
assert.equal(seen.error, '');
await arrived(PNG);
proved('images');

await fail(async (key) => {
  const { text, error } = await ask('Is the tea ready?', { key });
  return `${text} ${error}`;
});
process.exit(0);
