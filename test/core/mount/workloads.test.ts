import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import passthrough from '../../../backends/passthrough/index.js';
import { type Backend, UsageError } from '../../../core/backend/index.js';
import { keepingLog, MountedExport, shell, temporaryDirectory } from '../../support/host-mount.js';
import { contentions, workloads } from '../../support/workloads.js';

const environment = {
  log: keepingLog(),
  createBackend: (): never => {
    throw new UsageError('not made of others');
  },
};

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

    contentions.forEach(({ name, holder, contender }, index) => {
      it(`${name} of one mount keep the other mount out`, async () => {
        const [first, second] = mounted.mounts;
        await shell(`mkdir c${index}`, first!.directory);
        const results = await Promise.all([
          shell(`cd c${index}\n${holder}`, first!.directory),
          shell(`cd c${index}\n${contender}`, second!.directory),
        ]);
        assert.deepEqual(results, [
          { code: 0, output: 'ok\n' },
          { code: 0, output: 'ok\n' },
        ]);
      });
    });

    it('nothing was logged as wrong, and no lock, waiter or request is left', async () => {
      assert.deepEqual(mounted.log.lines, []);
      assert.deepEqual(mounted.export.locks.counts, { locks: 0, waiters: 0 });
    });
  });
}
