// Vercel's AI SDK by its three doors: openai-compatible, openai's chat, and openai's default, which is Responses.
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, jsonSchema, Output, stepCountIs, streamText, tool } from 'ai';
import { readFileSync } from 'node:fs';
import { PDF, PNG, arrives } from './attached.mjs';
import { BASE, KEY, MODEL, TEXT, THINKING, THOUGHT, WAYS, asked, assert, calls, cutShort, knobs, prompt, proved, refused, slowly, version } from './told.mjs';

const installed = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
version(`${installed('ai')}, openai-compatible ${installed('@ai-sdk/openai-compatible')}, openai ${installed('@ai-sdk/openai')}`);
const compatible = createOpenAICompatible({ name: 'kimi', baseURL: BASE, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true });
const openai = createOpenAI({ baseURL: BASE, apiKey: KEY });
// `thinks`: this door has a place for reasoning.
const doors = [
  { name: 'openai-compatible', model: compatible, thinks: true },
  { name: '`openai.chat()`', model: openai.chat, thinks: false },
  { name: '`openai()`, which is Responses', model: openai, thinks: true },
];

async function read(model, text) {
  const seen = { pieces: [], thinking: '', errors: [] };
  const result = streamText({ model, prompt: text, maxRetries: 0, onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === 'text-delta') seen.pieces.push(part.text);
    if (part.type === 'reasoning-delta') seen.thinking += part.text;
    if (part.type === 'error') seen.errors.push(part.error);
    if (part.type === 'finish') Object.assign(seen, { reason: part.finishReason, usage: part.totalUsage });
  }
  return seen;
}

for (const { name, model, thinks } of doors) {
  const whole = await generateText({ model: model(THINKING), prompt: prompt() });
  assert.equal(whole.text, TEXT);
  assert.equal(whole.finishReason, 'stop');
  assert.ok(whole.usage.totalTokens > 0);
  if (thinks) assert.equal(whole.reasoningText, THOUGHT);

  const streamed = await read(model(THINKING), slowly());
  assert.deepEqual(streamed.errors, []);
  assert.equal(streamed.pieces.join(''), TEXT);
  assert.ok(streamed.pieces.length > 1);
  assert.equal(streamed.reason, 'stop');
  assert.ok(streamed.usage.outputTokens > 0);
  if (thinks) assert.equal(streamed.thinking, THOUGHT);

  await asked(1, () =>
    assert.rejects(generateText({ model: model(MODEL), prompt: prompt({ fail: 'too_long' }) }), (error) =>
      APICallError.isInstance(error) && error.statusCode === 400));
  await assert.rejects(generateText({ model: model('gpt-4o'), prompt: 'Hello' }), /gpt-4o/);

  const broken = await read(model(MODEL), cutShort());
  assert.equal(broken.pieces.join(''), 'Tea is r');
  assert.equal(broken.errors.length, 1);
  assert.notEqual(broken.reason, 'stop');

  const schema = jsonSchema({ type: 'object', properties: { leaves: { type: 'integer' } }, required: ['leaves'], additionalProperties: false });
  const said = await generateText({ model: model(MODEL), prompt: prompt({ say: '{"leaves": 3}' }), output: Output.object({ schema }) });
  assert.deepEqual(said.output, { leaves: 3 });
  proved('also', name);
}
for (const fact of ['text', 'stream', 'thinking', 'usage', 'error', 'broken']) proved(fact);
proved('also', 'structured output');

const weather = tool({
  description: 'The weather',
  inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false }),
  execute: ({ city }) => `sunny in ${city}`,
});
for (const { model } of doors) {
  for (const ask of [generateText, streamText]) {
    for (const [way, times] of WAYS) {
      await calls(way);
      const history = [];
      for (const [question, expected] of [['Is it warm?', times], ['And now?', 1]]) {
        history.push({ role: 'user', content: question });
        const result = await ask({ model: model(MODEL), messages: history, tools: { weather }, stopWhen: stepCountIs(5) });
        assert.equal(await result.text, `It returned: ${Array(expected).fill('sunny in Ulm').join('\n')}`);
        const made = (await result.steps).map((step) => step.toolCalls.length);
        assert.deepEqual(made, [expected, 0]);
        assert.equal(await result.finishReason, 'stop');
        history.push(...(await result.response).messages);
      }
    }
  }
}
proved('tools');
await knobs({});

for (const { model, name } of doors) {
  const see = (part) => generateText({ model: model(MODEL), messages: [{ role: 'user', content: [{ type: 'text', text: 'What is it?' }, part] }] });
  // By openai-compatible the SDK fetches addresses itself, and refuses those of this machine.
  for (const data of name === 'openai-compatible' ? [PNG.bytes] : [PNG.bytes, new URL(PNG.address)]) {
    await arrives([[PNG]], () => see({ type: 'file', data, mediaType: PNG.type }));
  }
  await arrives([[PDF]], () => see({ type: 'file', data: PDF.bytes, mediaType: PDF.type, filename: PDF.name }));
}
const look = tool({
  inputSchema: jsonSchema({ type: 'object', properties: {} }),
  execute: () => PNG.base64,
  toModelOutput: ({ output }) => ({ type: 'content', value: [{ type: 'file-data', data: output, mediaType: PNG.type }] }),
});
await calls('obey', 'look', {});
await arrives([[], [PNG]], () => generateText({ model: openai(MODEL), prompt: 'What do you see?', tools: { look }, stopWhen: stepCountIs(5) }));
await knobs({});
proved('images');
proved('documents');

// The answer shows what Kimi knows, whether it was told now or before in the same chat.
await knobs({ recite: 'I like tea' });
const messages = [];
for (const content of ['I like tea', 'What did I say?']) {
  messages.push({ role: 'user', content });
  const { response, text } = await generateText({ model: openai(MODEL), messages });
  messages.push(...response.messages);
  if (messages.length > 2) assert.match(text, /I like tea/);
}
await knobs({});
proved('also', 'a conversation by item references');
