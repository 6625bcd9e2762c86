import assert from 'node:assert/strict';
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { checkBackend } from '../../../core/contract/index.js';
import type { Backend } from '../../../core/backend/index.js';
import { overlay, type OverlaySettings } from '../../../backends/overlay/index.js';
import { asynchronous, defaults, host, memoryLayer, plain, share } from './support.js';

/** Overlays of each kind of layer, over one directory of the host with something in it. */
const kinds: Record<string, (directory: string) => Promise<Partial<OverlaySettings>>> = {
  'memfs over passthrough': async (directory) => ({
    upper: await memoryLayer(),
    lowers: [share(join(directory, 'lower'))],
  }),
  'passthrough over passthrough': async (directory) => ({
    upper: share(join(directory, 'upper')),
    lowers: [share(join(directory, 'lower'))],
  }),
  'memfs over an asynchronous layer over passthrough': async (directory) => ({
    upper: await memoryLayer(),
    lowers: [asynchronous(await memoryLayer()), share(join(directory, 'lower'))],
  }),
  'an asynchronous upper over an asynchronous layer': async (directory) => ({
    upper: asynchronous(await memoryLayer()),
    lowers: [asynchronous(share(join(directory, 'lower')))],
  }),
  'an upper without devices and attributes over passthrough': async (directory) => ({
    upper: plain(await memoryLayer()),
    lowers: [share(join(directory, 'lower'))],
  }),
  'memfs over an overlay': async (directory) => ({
    upper: await memoryLayer(),
    lowers: [
      overlay({
        ...defaults,
        upper: await memoryLayer(),
        lowers: [share(join(directory, 'lower'))],
      }) as Backend,
    ],
  }),
};

function fill(directory: string): void {
  const lower = join(directory, 'lower');
  mkdirSync(join(lower, 'dir/sub'), { recursive: true });
  mkdirSync(join(directory, 'upper'));
  writeFileSync(join(lower, 'dir/file'), 'content');
  linkSync(join(lower, 'dir/file'), join(lower, 'dir/sub/link'));
}

for (const [kind, make] of Object.entries(kinds)) {
  describe(`an overlay of ${kind}`, () => {
    it('keeps the contract', async () => {
      const directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
      try {
        fill(directory);
        const create = async (): Promise<Backend> =>
          overlay({ ...defaults, ...(await make(directory)) }) as Backend;
        const { results, passed } = await checkBackend({ create, log: host.log });
        const failures = results.filter(({ outcome }) => outcome === 'failed');
        assert.deepEqual(
          failures.map(({ name, reason }) => `${name}: ${reason}`),
          [],
        );
        assert.ok(passed > 40, `${passed} passed`);
      } finally {
        rmSync(directory, { recursive: true });
      }
    });
  });
}
