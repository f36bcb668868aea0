// What the page does: asks once, and says how it went in plain values.
import OpenAI from 'openai';

globalThis.ask = async ({ baseURL, apiKey, model, text, stream = false }) => {
  const client = new OpenAI({ baseURL, apiKey, dangerouslyAllowBrowser: true });
  const seen = { text: '', pieces: 0 };
  try {
    const messages = [{ role: 'user', content: text }];
    const { data, request_id } = await client.chat.completions.create({ model, messages, stream }).withResponse();
    seen.requestId = request_id;
    if (!stream) return { ...seen, text: data.choices[0].message.content };
    for await (const chunk of data) {
      const piece = chunk.choices[0].delta.content;
      if (piece) Object.assign(seen, { text: seen.text + piece, pieces: seen.pieces + 1 });
    }
    return seen;
  } catch (error) {
    const names = ['AuthenticationError', 'BadRequestError', 'NotFoundError', 'APIConnectionError', 'APIError'];
    return { ...seen, error: names.find((name) => error instanceof OpenAI[name]), status: error.status, code: error.code, requestId: error.requestID, message: String(error) };
  }
};
