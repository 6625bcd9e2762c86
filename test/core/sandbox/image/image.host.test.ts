import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Image } from '../../../../core/sandbox/image/image.js';
import { layout, tar } from '../../../support/images.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
after(() => rmSync(folder, { recursive: true }));

const silent = (): void => {};
const LOG = { debug: silent, info: silent, warn: silent, error: silent };

const zstd = (input: Buffer): Buffer => spawnSync('zstd', ['-cq'], { input, maxBuffer: 1 << 26 }).stdout;

test('layers in zstd are read', { skip: spawnSync('zstd', ['-V']).error !== undefined }, async () => {
  const content = Buffer.alloc(3_000_000, 'not the same everywhere ');
  const image = await Image.open(layout(folder, [tar({ file: { content } })], { pack: zstd }));
  const snapshot = await image.load(LOG);
  const volume = snapshot.fork();
  assert.ok(content.equals(volume.readFileSync('/file') as Buffer));
  const cut = layout(folder, [tar({ file: { content } })], { pack: (bytes) => zstd(bytes).subarray(0, 60) });
  await assert.rejects((await Image.open(cut)).load(LOG), /blobs\/sha256\/[0-9a-f]{64}: /);
  volume.discard();
  snapshot.discard();
});
