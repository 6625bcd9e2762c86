import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import { overlay } from '../../../backends/overlay/index.js';
import passthrough from '../../../backends/passthrough/index.js';
import { type Backend, UsageError } from '../../../core/backend/index.js';
import { defaults, memoryLayer, share } from '../../backends/overlay/support.js';
import { keepingLog, MountedExport, shell, temporaryDirectory } from '../../support/host-mount.js';
import { overFuse, overPassthrough, setIdProgram } from '../../support/set-ids.js';

const environment = {
  log: keepingLog(),
  createBackend: (): never => {
    throw new UsageError('not made of others');
  },
};

type Kind = [string, (directory: string) => Backend | Promise<Backend>, (line: string) => string];
const kinds: readonly Kind[] = [
  ['memfs', () => memfs.create(memfs.options.parse({}), environment), overFuse],
  [
    'passthrough',
    (path) => passthrough.create(passthrough.options.parse({ sharedDir: path }), environment),
    overPassthrough,
  ],
  [
    'an overlay of memfs over passthrough',
    async (path) => overlay({ ...defaults, upper: await memoryLayer(), lowers: [share(path)] }) as Backend,
    overFuse,
  ],
];

/**
 * What the program says in a directory, line by line. What this process starts inherits that a
 * change of user keeps capabilities.
 */
async function said(directory: string): Promise<readonly string[]> {
  const perl = 'setpriv --securebits -no_setuid_fixup perl';
  const { code, output } = await shell(`${perl} - "$PWD" <<'END'\n${setIdProgram}\nEND`, directory);
  assert.equal(code, 0, output);
  return output.trimEnd().split('\n');
}

describe('who keeps set-id bits through what, as ext4 of the same kernel has it', () => {
  let image: Awaited<ReturnType<typeof temporaryDirectory>>;
  let truth: readonly string[];
  before(async () => {
    image = await temporaryDirectory();
    const made = spawnSync(
      'sh',
      ['-ec', 'truncate -s 32M i; mkfs.ext4 -q i; mkdir m; mount -o loop i m; chmod 755 m'],
      { cwd: image.path, encoding: 'utf8' },
    );
    assert.equal(made.status, 0, made.stderr);
    truth = await said(`${image.path}/m`);
    assert.equal(truth.length, 555);
  });
  after(async () => {
    spawnSync('umount', [`${image.path}/m`]);
    await image[Symbol.asyncDispose]();
  });

  for (const [kind, create, expected] of kinds) {
    it(`over ${kind}`, async () => {
      await using host = await temporaryDirectory();
      await chmod(host.path, 0o755);
      await using mounted = await MountedExport.open(await create(host.path));
      assert.deepEqual(await said(mounted.directory), truth.map(expected));
    });
  }
});
