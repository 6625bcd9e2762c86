import assert from 'node:assert/strict';
import { chmod } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import { overlay } from '../../../backends/overlay/index.js';
import passthrough from '../../../backends/passthrough/index.js';
import { type Backend } from '../../../core/backend/index.js';
import { defaults, memoryLayer, share } from '../../backends/overlay/support.js';
import { pluginEnvironment, MountedExport, shell, temporaryDirectory } from '../../support/host-mount.js';
import { reports } from '../../support/reports.js';

const environment = pluginEnvironment();

const kinds: readonly [string, (directory: string) => Backend | Promise<Backend>][] = [
  ['memfs', () => memfs.create(memfs.options.parse({}), environment)],
  ['passthrough', (path) => passthrough.create(passthrough.options.parse({ sharedDir: path }), environment)],
  [
    'an overlay of memfs over passthrough',
    async (path) => overlay({ ...defaults, upper: await memoryLayer(), lowers: [share(path)] }) as Backend,
  ],
];

for (const [kind, create] of kinds) {
  describe(`what was reported of others, over ${kind}`, () => {
    let host: Awaited<ReturnType<typeof temporaryDirectory>>;
    let mounted: MountedExport;
    before(async () => {
      host = await temporaryDirectory();
      await chmod(host.path, 0o755);
      for (const [index, { before: made }] of reports.entries()) {
        if (made === undefined || kind === 'memfs') continue;
        const { code, output } = await shell(`set -eu; mkdir r${index}; cd r${index}\n${made}`, host.path);
        assert.equal(code, 0, output);
      }
      mounted = await MountedExport.open(await create(host.path));
    });
    after(async () => {
      await mounted[Symbol.asyncDispose]();
      await host[Symbol.asyncDispose]();
    });

    reports.forEach(({ of, name, script, before: made }, index) => {
      it(`${of}: ${name}`, async () => {
        const place = `mkdir -p r${index}; cd r${index}`;
        const content = kind === 'memfs' ? (made ?? ':') : ':';
        const { code, output } = await shell(
          `set -eu; ${place}\n${content}\n${script}\necho ok`,
          mounted.directory,
        );
        assert.match(output, /(^|\n)ok\n$/);
        assert.equal(code, 0);
      });
    });
  });
}
