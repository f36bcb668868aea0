// n8n, started from its npm package with a PostgreSQL of its own, and used in Chromium: workflows are run in the editor,
// and an AI Agent is talked to in its chat. How failures look is read off the chat and the panel beside it.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { chromium, selectors } from 'playwright-core';
import { PNG, arrives } from './attached.mjs';
import { LAUNCH, atKimi, drawn, failInWindow, live, pictured, see, until } from './browser.mjs';
import { BASE, KEY, MODEL, TEXT, WAYS, asked, assert, calls, knobs, proved, version } from './told.mjs';

const freePort = () => new Promise((free) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => free(port));
  });
});
const [port, broker] = [await freePort(), await freePort()];
const url = `http://127.0.0.1:${port}`;
const database = new URL(process.env.DATABASE_URL);
const settings = {
  DB_TYPE: 'postgresdb',
  DB_POSTGRESDB_HOST: database.hostname,
  DB_POSTGRESDB_PORT: database.port,
  DB_POSTGRESDB_DATABASE: database.pathname.slice(1),
  DB_POSTGRESDB_USER: database.username,
  DB_POSTGRESDB_PASSWORD: database.password,
  N8N_LISTEN_ADDRESS: '127.0.0.1',
  N8N_PORT: String(port),
  N8N_EDITOR_BASE_URL: url,
  WEBHOOK_URL: url,
  N8N_RUNNERS_BROKER_PORT: String(broker),
  // The cookie of its login, without HTTPS.
  N8N_SECURE_COOKIE: 'false',
  // What it wants from the internet.
  N8N_DIAGNOSTICS_ENABLED: 'false',
  N8N_VERSION_NOTIFICATIONS_ENABLED: 'false',
  N8N_TEMPLATES_ENABLED: 'false',
  N8N_COMMUNITY_PACKAGES_ENABLED: 'false',
  N8N_PERSONALIZATION_ENABLED: 'false',
  NODE_OPTIONS: `--import=${new URL('without_sqlite.mjs', import.meta.url)}`,
};
const package_ = new URL('node_modules/n8n/', import.meta.url);
const program = spawn(process.execPath, ['bin/n8n', 'start'], {
  cwd: package_,
  env: { ...process.env, ...settings },
  stdio: ['ignore', process.stderr, process.stderr],
});
await until('the program', () => program.exitCode === null && fetch(`${url}/healthz/readiness`).then((reply) => reply.ok, () => false), 400);

let cookie = '';
async function api(path, body, method = 'POST') {
  const reply = await fetch(`${url}/rest/${path}`, { method, headers: { 'Content-Type': 'application/json', cookie }, body: JSON.stringify(body) });
  assert.ok(reply.ok, `${path}: ${reply.status} ${await reply.clone().text()}`);
  cookie = reply.headers.getSetCookie()[0]?.split(';')[0] ?? cookie;
  return (await reply.json()).data;
}
const owner = { email: 'owner@example.com', password: 'Of-this-run-1' };
await api('owner/setup', { ...owner, firstName: 'Anna', lastName: 'Example' });
const credential = { name: 'Kimi', type: 'openAiApi' };
const { id } = await api('credentials', { ...credential, data: { apiKey: KEY, url: BASE } });

// A workflow: nodes as `name: [type, version, parameters, position]`, and connections as `[from, kind, to]`.
const AI = '@n8n/n8n-nodes-langchain';
const model = { __rl: true, mode: 'id', value: MODEL };
async function workflow(name, nodes, connections) {
  const drawn = Object.entries(nodes).map(([name, [type, typeVersion, parameters, position]]) => {
    const own = { id: name, name, type, typeVersion, parameters, position, webhookId: `${name}-of-this-run` };
    return /openAi$/i.test(type) ? { ...own, credentials: { openAiApi: { id, name: 'Kimi' } } } : own;
  });
  const lines = {};
  for (const [from, kind, to] of connections) ((lines[from] ??= {})[kind] ??= [[]])[0].push({ node: to, type: kind, index: 0 });
  return api('workflows', { name, nodes: drawn, connections: lines, settings: { executionOrder: 'v1' } });
}
const START = ['n8n-nodes-base.manualTrigger', 1, {}, [0, 0]];
const chain = (version, more, ofModel) => ({
  Start: START,
  Model: [`${AI}.lmChatOpenAi`, version, { model, options: {}, ...ofModel }, [200, 220]],
  Step: [`${AI}.chainLlm`, 1.7, { promptType: 'define', text: 'How is the tea? 茶怎么样？', ...more }, [220, 0]],
});
const toChain = [['Start', 'main', 'Step'], ['Model', 'ai_languageModel', 'Step']];
const openAi = (version, parameters) => ({ Start: START, Step: [`${AI}.openAi`, version, { modelId: model, options: {}, ...parameters }, [220, 0]] });
const toStep = [['Start', 'main', 'Step']];

const browser = await chromium.launch(LAUNCH);
selectors.setTestIdAttribute('data-test-id');
const picture = `${process.env.HOME}/sea.png`;
await drawn(browser, picture);
const page = await browser.newPage({ viewport: { width: 1200, height: 860 }, locale: 'en-US' });
page.setDefaultTimeout(90_000);
version(`${JSON.parse(readFileSync(new URL('package.json', package_))).version}, Chromium ${browser.version()}`);

await page.goto(`${url}/signin`);
await page.locator('input[type=email]').fill(owner.email);
await page.locator('input[type=password]').fill(owner.password);
await page.locator('input[type=password]').press('Enter');
await page.getByText('Overview').first().waitFor();

const open = ({ id }) => page.goto(`${url}/workflow/${id}`);
// Runs a workflow in the editor: the node *Step* puts out this text.
async function runs(flow, text) {
  await open(flow);
  await page.getByTestId('execute-workflow-button').click();
  await page.getByText('Workflow executed successfully').waitFor();
  await page.locator('[data-test-id=canvas-node][data-node-name=Step]').dblclick();
  await page.getByTestId('output-panel').getByText(text).first().waitFor();
  await page.keyboard.press('Escape');
}

// Each of the nodes with a text.
async function nodes() {
  await knobs({ say: TEXT });
  const forms = [
    ['OpenAI Chat Model 1.2', chain(1.2), toChain],
    ['OpenAI Chat Model 1.3', chain(1.3), toChain],
    ['OpenAI Chat Model 1.3 without the Responses API', chain(1.3, {}, { responsesApiEnabled: false }), toChain],
    ['OpenAI 1.8', openAi(1.8, { messages: { values: [{ content: 'How is the tea?' }] } }), toStep],
    ['OpenAI 2', openAi(2, { responses: { values: [{ content: 'How is the tea?' }] } }), toStep],
  ];
  for (const [name, parts, lines] of forms) {
    const flow = await workflow(name, parts, lines);
    await asked(1, () => runs(flow, TEXT));
  }
}

// An image as the file that another node has fetched, by its address, and attached to a message.
async function images() {
  await knobs({ say: 'A chart.', think: '' });
  const fetched = { Start: START, File: ['n8n-nodes-base.httpRequest', 4.2, { url: PNG.address, options: { response: { response: { responseFormat: 'file' } } } }, [220, 0]] };
  const analyze = (version, input) => [`${AI}.openAi`, version, { resource: 'image', operation: 'analyze', modelId: model, text: 'What is it?', options: {}, ...input }, [440, 0]];
  const fromFile = [['Start', 'main', 'File'], ['File', 'main', 'Step']];
  const message = (part) => ({ messages: { messageValues: [{ type: 'HumanMessagePromptTemplate', ...part }] } });
  const forms = [
    ['OpenAI 2, file', { ...fetched, Step: analyze(2, { inputType: 'base64' }) }, fromFile],
    ['OpenAI 2, address', { Start: START, Step: analyze(2, { inputType: 'url', imageUrls: PNG.address }) }, toStep],
    ['OpenAI 1.8, file', { ...fetched, Step: analyze(1.8, { inputType: 'base64' }) }, fromFile],
    ['OpenAI 1.8, address', { Start: START, Step: analyze(1.8, { inputType: 'url', imageUrls: PNG.address }) }, toStep],
    ['Chain, file', { ...fetched, ...chain(1.3, message({ messageType: 'imageBinary', binaryImageDataKey: 'data' })) }, [...fromFile, toChain[1]]],
    ['Chain, address', chain(1.3, message({ messageType: 'imageUrl', imageUrl: PNG.address })), toChain],
  ];
  for (const [name, parts, lines] of forms) {
    const flow = await workflow(name, parts, lines);
    await arrives([[PNG]], () => runs(flow, 'A chart.'));
  }
  proved('images');
}

const agent = (chat) => workflow('Agent', {
  Chat: [`${AI}.chatTrigger`, 1.4, chat, [0, 0]],
  Agent: [`${AI}.agent`, 3.1, { options: {} }, [250, 0]],
  Model: [`${AI}.lmChatOpenAi`, 1.3, { model, options: {} }, [200, 250]],
  Memory: [`${AI}.memoryBufferWindow`, 1.3, {}, [340, 250]],
  Calculator: [`${AI}.toolCalculator`, 1, {}, [480, 250]],
}, [['Chat', 'main', 'Agent'], ['Model', 'ai_languageModel', 'Agent'], ['Memory', 'ai_memory', 'Agent'], ['Calculator', 'ai_tool', 'Agent']]);

// The address of a published chat answers in pieces; its page in the browser would come from the internet.
async function published() {
  const { id: flow, versionId } = await agent({ public: true, options: { responseMode: 'streaming' } });
  await api(`workflows/${flow}/activate`, { versionId });
  await knobs({ say: TEXT, think: '', delay_s: 0.25 });
  const body = JSON.stringify({ action: 'sendMessage', sessionId: 'one', chatInput: 'How is the tea?' });
  const ask = () => fetch(`${url}/webhook/Chat-of-this-run/chat`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  const reply = await until('the published chat', () => ask().then((reply) => reply.ok && reply));
  const pieces = [];
  let rest = '';
  for await (const bytes of reply.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + bytes).split('\n');
    rest = lines.pop();
    const said = lines.filter(Boolean).map((line) => JSON.parse(line)).filter((line) => line.type === 'item').map((line) => line.content).join('');
    if (said) pieces.push(said);
  }
  assert.ok(pieces.length > 1 && pieces.join('') === TEXT, JSON.stringify(pieces));
  proved('stream');
  await knobs({});
}

const panel = page.getByTestId('canvas-chat');
const chat = {
  page,
  send: async (text) => {
    await panel.getByTestId('chat-input').fill(text);
    await page.keyboard.press('Enter');
  },
  answer: async () => {
    const answers = panel.locator('.chat-message-from-bot:not(.chat-message-typing) .chat-message-markdown');
    return (await answers.count()) ? answers.last().innerText() : '';
  },
  stop: () => page.getByTestId('stop-execution-button').first().click(),
  again: async () => {
    await panel.locator('.chat-message-from-user').last().hover();
    await panel.locator('.chat-message-from-user').last().locator('.message-actions svg').first().click();
  },
  choose: async () => {},
  attach: async (file) => {
    const chooser = page.waitForEvent('filechooser');
    await panel.locator('.chat-input-file-button').click();
    await (await chooser).setFiles(file);
    await panel.getByText('sea.png').first().waitFor();
  },
  fresh: async () => {
    await page.getByTestId('refresh-session-button').click();
    await until('a new conversation', async () => (await panel.locator('.chat-message').count()) === 0);
  },
  busy: async () => (await panel.locator('.chat-message-typing').count()) > 0,
  // The words in the chat, and those of the panel with what the agent did.
  words: async () => {
    const error = page.locator('[data-test-id=node-error-message], [data-test-id=node-error-description]');
    return [await chat.answer(), ...(await error.allInnerTexts())].join(' ');
  },
  setKey: (key) => api(`credentials/${id}`, { ...credential, data: { apiKey: key, url: BASE } }, 'PATCH'),
};

async function functions() {
  for (const [way] of WAYS) {
    await calls(way, 'Calculator', { input: '6 * 7' });
    await chat.fresh();
    for (const question of ['How much is 6 times 7?', 'And once more?']) {
      await chat.send(question);
      await until('the answer', async () => (await panel.locator('.chat-message-from-user').last().innerText()).includes(question) && !(await chat.busy()) && (await chat.answer()).includes('42'));
    }
  }
  await knobs({});
  proved('tools');
}

try {
  await open(await agent({ options: { allowFileUploads: true } }));
  await page.getByTestId('workflow-chat-button').click();
  await functions();
  await pictured(page);
  await live(chat, { thinker: MODEL, streams: false });
  await see(chat, { seer: MODEL, picture });
  const conversation = page.url();
  await nodes();
  await images();
  await published();
  await page.goto(conversation);
  await failInWindow(chat, MODEL);
} catch (failure) {
  await page.screenshot({ path: `${process.env.HOME}/failure.png` });
  throw failure;
}
await browser.close();
program.kill();
