// The layer of Cherry Studio that speaks to a provider (@cherrystudio/ai-core), without its window.
import { createExecutor } from '@cherrystudio/ai-core';
import { readFileSync } from 'node:fs';
import { PNG, arrived } from './attached.mjs';
import { fail } from './failures.mjs';
import { BASE, KEY, MODEL, TEXT, THINKING, THOUGHT, assert, knobs, proved, version } from './told.mjs';

version(`ai-core ${JSON.parse(readFileSync(new URL('node_modules/@cherrystudio/ai-core/package.json', import.meta.url))).version}`);

async function ask(content, { key = KEY, model = MODEL, provider = 'openai-compatible' } = {}) {
  const seen = { pieces: [], thinking: '', error: '' };
  try {
    const executor = await createExecutor(provider, { apiKey: key, baseURL: BASE, name: 'kimi', includeUsage: true }, []);
    const result = await executor.streamText({ model, messages: [{ role: 'user', content }], maxRetries: 0, onError: () => {} });
    for await (const part of result.fullStream) {
      if (part.type === 'text-delta') seen.pieces.push(part.text);
      if (part.type === 'reasoning-delta') seen.thinking += part.text;
      if (part.type === 'error') seen.error = String(part.error?.message ?? JSON.stringify(part.error));
      if (part.type === 'finish') Object.assign(seen, { reason: part.finishReason, usage: part.totalUsage });
    }
  } catch (error) {
    seen.error = error.message;
  }
  return { ...seen, text: seen.pieces.join('') };
}

// Its kinds of provider. That of `openai` is Responses; `openai-chat` has no place for reasoning, and
// `anthropic` shows none that it has not asked for.
for (const [provider, thinks] of [['openai-compatible', true], ['openai-chat', false], ['openai', true], ['anthropic', false]]) {
  await knobs({ say: TEXT, think: THOUGHT, delay_s: 0.1 });
  const streamed = await ask('How is the tea?', { provider, model: THINKING });
  assert.equal(streamed.error, '');
  assert.equal(streamed.text, TEXT);
  assert.ok(streamed.pieces.length > 1);
  if (thinks) assert.equal(streamed.thinking, THOUGHT, provider);
  assert.ok(streamed.usage.outputTokens > 0);
  await knobs({});
  const { error } = await ask([{ type: 'text', text: 'What is it?' }, { type: 'image', image: PNG.base64, mediaType: 'image/png' }], { provider });
  assert.equal(error, '');
  await arrived(PNG);
  proved('also', `\`${provider}\``);
}
for (const fact of ['text', 'stream', 'thinking', 'usage', 'images']) proved(fact);

await fail(async (key) => {
  const { text, error } = await ask('Is the tea ready?', { key });
  return `${text} ${error}`;
});
