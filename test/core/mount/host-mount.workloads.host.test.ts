import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import passthrough from '../../../backends/passthrough/index.js';
import { type Backend } from '../../../core/backend/index.js';
import {
  contend,
  pluginEnvironment,
  MountedExport,
  shell,
  temporaryDirectory,
} from '../../support/host-mount.js';
import { workloads } from '../../support/workloads.js';

const environment = pluginEnvironment();

const kinds: readonly [string, (directory: string) => Backend | Promise<Backend>][] = [
  ['memfs', () => memfs.create(memfs.options.parse({}), environment)],
  ['passthrough', (path) => passthrough.create(passthrough.options.parse({ sharedDir: path }), environment)],
];

for (const [kind, create] of kinds) {
  describe(`over a host mount of ${kind}`, () => {
    let host: Awaited<ReturnType<typeof temporaryDirectory>>;
    let mounted: MountedExport;
    before(async () => {
      host = await temporaryDirectory();
      mounted = await MountedExport.open(await create(host.path), { times: 2 });
    });
    after(async () => {
      await mounted[Symbol.asyncDispose]();
      await host[Symbol.asyncDispose]();
    });

    workloads.forEach(({ name, script }, index) => {
      it(name, async () => {
        const { code, output } = await shell(`mkdir w${index}; cd w${index}\n${script}`, mounted.directory);
        assert.match(output, /(^|\n)ok\n$/);
        assert.equal(code, 0);
      });
    });

    contend(() => mounted);

    it('nothing was logged as wrong, and no lock, waiter or request is left', async () => {
      assert.deepEqual(mounted.log.lines, []);
      assert.deepEqual(mounted.export.locks.counts, { locks: 0, waiters: 0 });
    });
  });
}
