// A picture of two by three points, and whether it came to Kimi as it is.
import { createHash } from 'node:crypto';
import { assert } from './told.mjs';

const base64 = 'iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAEElEQVR4nGNgZ/gBQQxwFgA2MgX7lQWi7AAAAABJRU5ErkJggg==';
const bytes = Buffer.from(base64, 'base64');
export const PNG = { bytes, base64, url: `data:image/png;base64,${base64}`, digest: createHash('sha256').update(bytes).digest('hex') };

// As the simulator describes it: its type and size, and the digest of its bytes.
export async function arrived({ bytes: sent, digest }, type = 'image/png') {
  const { uploads } = await (await fetch(`${process.env.SIMULATOR_URL}/_sim/state`)).json();
  const found = uploads.filter((upload) => upload.digest === digest);
  assert.ok(found.length, JSON.stringify(uploads));
  assert.ok(found[0].file.includes(`(${type}, ${sent.length} bytes, `), found[0].file);
}
