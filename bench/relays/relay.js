// A minimal relay from OpenAI's API to Kimi's, written as plainly as such projects in Node are: Koa in front,
// axios behind, eventsource-parser between. It is what the gateway is compared with, so it does the same work
// and no more: a new chat, one answer passed on as it comes, the chat deleted afterwards. One account, no
// conversations, no heartbeats, no limits.
//
//     PORT=8010 UPSTREAM=http://127.0.0.1:8901 TOKEN=... node relay.js

'use strict';

const { randomUUID } = require('node:crypto');
const { PassThrough } = require('node:stream');
const axios = require('axios');
const { createParser } = require('eventsource-parser');
const Koa = require('koa');

const kimi = axios.create({
  baseURL: process.env.UPSTREAM,
  headers: { Authorization: `Bearer ${process.env.TOKEN}`, 'Content-Type': 'application/json' },
});

async function readBody(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString());
}

// What the client gets: one SSE event per token.
class Answer {
  constructor(model) {
    this.head = {
      id: `chatcmpl-${randomUUID()}`,
      object: 'chat.completion.chunk',
      created: Math.floor(Date.now() / 1000),
      model,
    };
    this.out = new PassThrough();
  }

  write(delta, finishReason = null) {
    const choices = [{ index: 0, delta, finish_reason: finishReason }];
    this.out.write(`data: ${JSON.stringify({ ...this.head, choices })}\n\n`);
  }

  finish() {
    this.write({}, 'stop');
    this.out.end('data: [DONE]\n\n');
  }
}

// Generation 1: REST, and JSON in server-sent events.
async function relaySse(prompt, answer) {
  const chat = (await kimi.post('/api/chat', { name: 'relay', is_example: false })).data;
  const body = { model: 'k2', use_search: false, messages: [{ role: 'user', content: prompt }], refs: [] };
  const reply = await kimi.post(`/api/chat/${chat.id}/completion/stream`, body, { responseType: 'stream' });
  const parser = createParser({
    onEvent(event) {
      const frame = JSON.parse(event.data);
      if (frame.event === 'cmpl') answer.write({ content: frame.text });
      else if (frame.event === 'all_done') answer.finish();
    },
  });
  answer.write({ role: 'assistant', content: '' });
  reply.data.setEncoding('utf8');
  reply.data.on('data', (text) => parser.feed(text));
  reply.data.on('end', () => kimi.delete(`/api/chat/${chat.id}`).catch(console.error));
}

// Generation 2: Connect, JSON in envelopes of a flag byte and four bytes of length.
async function relayConnect(prompt, answer) {
  const payload = Buffer.from(
    JSON.stringify({
      scenario: 'SCENARIO_K2D5',
      tools: [],
      message: { role: 'user', blocks: [{ text: { content: prompt } }], scenario: 'SCENARIO_K2D5' },
      options: { thinking: false },
    }),
  );
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(payload.length, 1);
  const reply = await kimi.post('/apiv2/kimi.gateway.chat.v1.ChatService/Chat', Buffer.concat([prefix, payload]), {
    headers: { 'Content-Type': 'application/connect+json', 'Connect-Protocol-Version': '1' },
    responseType: 'stream',
  });
  let chatId;
  let rest = Buffer.alloc(0);
  answer.write({ role: 'assistant', content: '' });
  reply.data.on('data', (data) => {
    rest = rest.length ? Buffer.concat([rest, data]) : data;
    while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
      const end = 5 + rest.readUInt32BE(1);
      const frame = JSON.parse(rest.subarray(5, end).toString() || '{}');
      const isLast = (rest[0] & 2) !== 0;
      rest = rest.subarray(end);
      if (frame.chat && frame.chat.id) chatId = frame.chat.id;
      if (frame.mask && frame.mask.startsWith('block.text')) answer.write({ content: frame.block.text.content });
      if (isLast) answer.finish();
    }
  });
  reply.data.on('end', () => kimi.post('/apiv2/kimi.chat.v1.ChatService/DeleteChat', { chat_id: chatId }).catch(console.error));
}

const app = new Koa();
app.use(async (ctx) => {
  const body = await readBody(ctx.req);
  const prompt = body.messages.map((message) => message.content).join('\n');
  const answer = new Answer(body.model);
  await (body.model.startsWith('kimi-') ? relayConnect : relaySse)(prompt, answer);
  ctx.set('Content-Type', 'text/event-stream; charset=utf-8');
  ctx.set('Cache-Control', 'no-cache');
  ctx.body = answer.out;
});
app.listen(Number(process.env.PORT), '127.0.0.1', 4096);
