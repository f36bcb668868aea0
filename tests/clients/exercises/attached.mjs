// A picture and a document, and whether they came to Kimi as they are: attached.py in JavaScript.
import { createHash } from 'node:crypto';
import { readFileSync, realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { assert } from './told.mjs';

const ask = async (path) => (await fetch(`${process.env.SIMULATOR_URL}/_sim/${path}`)).json();
// The modules of exercises are linked into the folder of each client.
const folder = dirname(realpathSync(fileURLToPath(import.meta.url)));
const sample = (name, type) => {
  const path = `${folder}/samples/${name}`;
  const bytes = readFileSync(path);
  const base64 = bytes.toString('base64');
  return { name, type, path, bytes, base64, url: `data:${type};base64,${base64}`, address: `${process.env.SITE_URL}/${name}`, digest: createHash('sha256').update(bytes).digest('hex') };
};
export const PNG = sample('chart.png', 'image/png');
export const PDF = sample('report.pdf', 'application/pdf');

// As the simulator describes it: its type and size, and the digest of its bytes.
export async function arrived({ bytes: sent, digest }, type = 'image/png') {
  const { uploads } = await ask('state');
  const found = uploads.filter((upload) => upload.digest === digest);
  assert.ok(found.length, JSON.stringify(uploads));
  assert.ok(found[0].file.includes(`(${type}, ${sent.length} bytes, `), found[0].file);
}

// Within, Kimi is asked once for each of these, with exactly these files in this order.
export async function arrives(turnsWithSamples, act) {
  const before = (await ask('requests')).at(-1)?.n ?? 0;
  const result = await act();
  const digests = Object.fromEntries((await ask('state')).uploads.map((upload) => [upload.id, upload.digest]));
  const turns = (await ask('requests')).filter((request) => request.n > before).flatMap(filesOfTurns);
  assert.deepEqual(turns.map((ids) => ids.map((id) => digests[id])), turnsWithSamples.map((samples) => samples.map(({ digest }) => digest)));
  return result;
}

function filesOfTurns({ path, frames, json }) {
  if (path.endsWith('.ChatService/Chat')) return frames.map(({ message }) => message.blocks.filter((block) => block.file).map((block) => block.file.id));
  return path.endsWith('/completion/stream') ? [json.refs ?? []] : [];
}
