import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { commitImage } from '../../../../core/sandbox/image/commit.js';
import { Image } from '../../../../core/sandbox/image/image.js';
import { layout, LOG, tar } from '../../../support/images.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
after(() => rmSync(folder, { recursive: true }));

const zstd = (input: Buffer): Buffer => spawnSync('zstd', ['-cq'], { input, maxBuffer: 1 << 27 }).stdout;

const skip = ['zstd', 'skopeo'].some((program) => spawnSync(program, ['--version']).error !== undefined);

test('layers in zstd are read, also where they are long, and are copied by a commit', { skip }, async () => {
  const noise = randomBytes(1 << 20);
  const content = Buffer.concat(Array.from({ length: 40 }, () => noise));
  const image = await Image.open(layout(folder, [tar({ file: { content } })], { pack: zstd }));
  const snapshot = await image.load(LOG);
  const volume = snapshot.fork();
  assert.ok(content.equals(volume.readFileSync('/file') as Buffer));
  volume.discard();
  snapshot.discard();
  const cut = layout(folder, [tar({ file: { content } })], { pack: (bytes) => zstd(bytes).subarray(0, 60) });
  await assert.rejects((await Image.open(cut)).load(LOG), /blobs\/sha256\/[0-9a-f]{64}: /);

  const target = join(folder, 'committed');
  await commitImage(target, 'next', image, (sink) => {
    sink.write(tar({ added: {} }));
    return Promise.resolve();
  });
  const words = ['inspect', '--raw', `oci:${target}:next`];
  const { layers } = JSON.parse(execFileSync('skopeo', words, { encoding: 'utf8' })) as {
    layers: { mediaType: string }[];
  };
  assert.deepEqual(
    layers.map(({ mediaType }) => /tar.*$/.exec(mediaType)?.[0]),
    ['tar+zstd', 'tar+gzip'],
  );
  execFileSync('skopeo', ['copy', '-q', `oci:${target}:next`, `dir:${folder}/copied`]);
});
