// OpenAI's SDK for Node: chat completions by hand and by its helper, Responses, errors.
import { createReadStream } from 'node:fs';
import OpenAI from 'openai';
import { VERSION } from 'openai/version';
import { PDF, PNG, arrives } from './attached.mjs';
import { BASE, KEY, MODEL, TEXT, THINKING, THOUGHT, WAYS, asked, assert, calls, cutShort, prompt, proved, refused, slowly, version } from './told.mjs';

const client = new OpenAI({ baseURL: BASE, apiKey: KEY });
version(`${VERSION} (Node ${process.versions.node})`);
const messages = (content) => [{ role: 'user', content }];

const { data, request_id } = await client.chat.completions.create({ model: THINKING, messages: messages(prompt()) }).withResponse();
assert.equal(data.choices[0].message.content, TEXT);
assert.equal(data.choices[0].finish_reason, 'stop');
assert.ok(request_id);
proved('text');
assert.equal(data.choices[0].message.reasoning_content, THOUGHT);
proved('thinking');
assert.ok(data.usage.total_tokens > 0);
proved('usage');

const pieces = [];
for await (const chunk of await client.chat.completions.create({ model: MODEL, messages: messages(slowly()), stream: true })) {
  if (chunk.choices[0].delta.content) pieces.push(chunk.choices[0].delta.content);
}
assert.equal(pieces.join(''), TEXT);
assert.ok(pieces.length > 1);
const helped = [];
const runner = client.chat.completions.stream({ model: MODEL, messages: messages(slowly()), stream_options: { include_usage: true } });
runner.on('content', (delta) => helped.push(delta));
const final = await runner.finalChatCompletion();
assert.equal(final.choices[0].message.content, TEXT);
assert.equal(helped.join(''), TEXT);
assert.ok(helped.length > 1);
assert.ok(final.usage.completion_tokens > 0);
proved('stream');
proved('also', '`.stream()`');

await asked(1, () =>
  assert.rejects(
    client.chat.completions.create({ model: MODEL, messages: messages(prompt({ fail: 'too_long' })) }),
    (error) => error instanceof OpenAI.BadRequestError && error.code === 'context_length_exceeded' && Boolean(error.requestID),
  ));
// The gateway itself tries another account; the SDK would repeat a 502, were it not told otherwise.
await asked(2, () =>
  assert.rejects(
    client.chat.completions.create({ model: MODEL, messages: messages(refused()) }),
    (error) => error instanceof OpenAI.InternalServerError && error.status === 502,
  ));
await assert.rejects(
  new OpenAI({ baseURL: BASE, apiKey: 'sk-wrong' }).chat.completions.create({ model: MODEL, messages: messages('Hello') }),
  OpenAI.AuthenticationError,
);
proved('error');

let text = '';
await assert.rejects(async () => {
  for await (const chunk of await client.chat.completions.create({ model: MODEL, messages: messages(cutShort()), stream: true })) {
    text += chunk.choices[0].delta.content ?? '';
    assert.equal(chunk.choices[0].finish_reason, null);
  }
}, OpenAI.APIError);
assert.equal(text, 'Tea is r');
const broken = client.chat.completions.stream({ model: MODEL, messages: messages(cutShort()) });
await assert.rejects(broken.finalChatCompletion(), OpenAI.APIError);
proved('broken');

const first = await client.responses.create({ model: THINKING, input: prompt() });
assert.equal(first.output_text, TEXT);
const second = await client.responses.create({ model: THINKING, input: 'What did I say?', previous_response_id: first.id });
assert.match(second.output_text, /Hello/);
const events = client.responses.stream({ model: MODEL, input: slowly() });
assert.equal((await events.finalResponse()).output_text, TEXT);
proved('also', 'Responses with `previous_response_id`');

const byContent = (...parts) => client.chat.completions.create({ model: MODEL, messages: messages([{ type: 'text', text: 'What is it?' }, ...parts]) });
const byInput = (...parts) => client.responses.create({ model: THINKING, input: [{ role: 'user', content: [{ type: 'input_text', text: 'What is it?' }, ...parts] }], store: false });
const picture = await client.files.create({ file: await OpenAI.toFile(PNG.bytes, PNG.name), purpose: 'vision' });
const report = await client.files.create({ file: createReadStream(PDF.path), purpose: 'user_data' });
for (const url of [PNG.url, PNG.address]) {
  await arrives([[PNG]], () => byContent({ type: 'image_url', image_url: { url, detail: 'high' } }));
  await arrives([[PNG]], () => byInput({ type: 'input_image', image_url: url, detail: 'auto' }));
}
await arrives([[PNG]], () => byInput({ type: 'input_image', file_id: picture.id, detail: 'auto' }));
proved('images');
for (const file of [{ file_data: PDF.url, filename: PDF.name }, { file_id: report.id }]) {
  await arrives([[PDF]], () => byContent({ type: 'file', file }));
  await arrives([[PDF]], () => byInput({ type: 'input_file', ...file }));
}
await arrives([[PDF]], () => byInput({ type: 'input_file', file_url: PDF.address }));
proved('documents');
for (const { id } of [picture, report]) assert.ok((await client.files.delete(id)).deleted);
proved('also', '`files`');

const parameters = { type: 'object', properties: { city: { type: 'string' } } };
const asFunction = { name: 'weather', description: 'The weather', parameters, parse: JSON.parse, function: ({ city }) => `sunny in ${city}` };
for (const stream of [false, true]) {
  for (const [way, times] of WAYS) {
    await calls(way);
    const history = [];
    for (const [question, expected] of [['Is it warm?', times], ['And now?', 1]]) {
      history.push({ role: 'user', content: question });
      const toolRunner = client.chat.completions.runTools({ model: MODEL, messages: history, stream, tools: [{ type: 'function', function: asFunction }] });
      assert.equal(await toolRunner.finalContent(), `It returned: ${Array(expected).fill('sunny in Ulm').join('\n')}`);
      history.splice(0, history.length, ...toolRunner.messages);
    }
  }
}
proved('tools');
proved('also', '`.runTools()`');
