import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { memoryInUse, MemfsVolume, type VolumeSnapshot } from '../../../../backends/memfs/index.js';
import { FileType } from '../../../../core/backend/index.js';
import { host } from '../support.js';
import { checkProperty } from '../../../support/random.js';
import { entriesOf } from '../../../support/listings.js';

/** Everything in a volume but its times. */
function describe(volume: MemfsVolume): unknown[] {
  const { backend } = volume;
  const shown: unknown[] = [];
  const visit = (path: string, node: ReturnType<typeof backend.mount>): void => {
    const { ino, mode, size, blocks, nlink, uid } = backend.getattr(node);
    const content = node.type === FileType.REGULAR ? volume.readFileSync(path).toString() : '';
    shown.push([path, ino, mode, size, blocks, nlink, uid, content, node.target]);
    if (node.entries === undefined) return;
    const names = entriesOf(backend.readdir(node))
      .map(({ name }) => name)
      .sort();
    for (const name of names) {
      const child = backend.lookup(node, name)!.node;
      visit(`${path}/${name}`, child);
      backend.forget(child);
    }
  };
  visit('', backend.mount(host));
  return shown;
}

interface Session {
  readonly volumes: MemfsVolume[];
  readonly snapshots: { readonly snapshot: VolumeSnapshot; readonly expected: unknown[] }[];
}

const anyPath = fc
  .array(fc.constantFrom('a', 'b', 'c'), { minLength: 1, maxLength: 3 })
  .map((names) => `/${names.join('/')}`);
const which = fc.nat(7);

interface Step {
  readonly [fc.toStringMethod]: () => string;
  run(session: Session): void;
}

function step(title: string, run: (session: Session) => void): Step {
  return { [fc.toStringMethod]: () => title, run };
}

/** A change of one of the volumes; it may fail, as any operation may. */
function change<T extends unknown[]>(
  title: string,
  arbitraries: { [K in keyof T]: fc.Arbitrary<T[K]> },
  run: (volume: MemfsVolume, ...values: T) => void,
): fc.Arbitrary<Step> {
  return fc.tuple(which, fc.tuple<T>(...arbitraries)).map(([index, values]) =>
    step(`${title} ${index} ${values.join(' ')}`, ({ volumes }) => {
      try {
        run(volumes[index % volumes.length]!, ...values);
      } catch (error) {
        assert.ok(typeof (error as NodeJS.ErrnoException).code === 'string', String(error));
      }
    }),
  );
}

const text = fc.tuple(fc.string({ minLength: 1, maxLength: 3 }), fc.constantFrom(1, 2000, 100_000));
const steps = fc.array(
  fc.oneof(
    change('writeFile', [anyPath, text], (volume, file, [part, times]) =>
      volume.writeFileSync(file, part.repeat(times)),
    ),
    change('appendFile', [anyPath, text], (volume, file, [part, times]) =>
      volume.appendFileSync(file, part.repeat(times)),
    ),
    change('truncate', [anyPath, fc.nat(200_000)], (volume, file, size) => volume.truncateSync(file, size)),
    change('mkdir', [anyPath], (volume, file) => volume.mkdirSync(file)),
    change('rename', [anyPath, anyPath], (volume, from, to) => volume.renameSync(from, to)),
    change('link', [anyPath, anyPath], (volume, from, to) => volume.linkSync(from, to)),
    change('symlink', [anyPath], (volume, file) => volume.symlinkSync('t', file)),
    change('rm', [anyPath], (volume, file) => volume.rmSync(file, { recursive: true })),
    change('chmod', [anyPath, fc.constantFrom(0o600, 0o755)], (volume, file, mode) =>
      volume.chmodSync(file, mode),
    ),
    which.map((index) =>
      step(`snapshot ${index}`, ({ volumes, snapshots }) => {
        const volume = volumes[index % volumes.length]!;
        if (snapshots.length < 6) snapshots.push({ snapshot: volume.snapshot(), expected: describe(volume) });
      }),
    ),
    which.map((index) =>
      step(`fork ${index}`, ({ volumes, snapshots }) => {
        const chosen = snapshots[index % Math.max(1, snapshots.length)];
        if (chosen !== undefined && volumes.length < 8) volumes.push(chosen.snapshot.fork());
      }),
    ),
    which.map((index) =>
      step(`discard snapshot ${index}`, ({ snapshots }) => {
        const [gone] = snapshots.splice(index, 1);
        gone?.snapshot.discard();
      }),
    ),
    which.map((index) =>
      step(`discard ${index}`, ({ volumes }) => {
        if (volumes.length > 1) volumes.splice(index % volumes.length, 1)[0]!.discard();
      }),
    ),
  ),
  { maxLength: 60, size: 'max' },
);

test('a fork that removes one name of a file, and never looks at the other, gives everything back', () => {
  const before = memoryInUse().used;
  const volume = new MemfsVolume();
  volume.writeFileSync('/a', 'content');
  volume.linkSync('/a', '/b');
  const fork = volume.fork();
  fork.rmSync('/a');
  fork.discard();
  assert.equal(volume.readFileSync('/b').toString(), 'content');
  volume.discard();
  assert.equal(memoryInUse().used, before);
});

test('whatever happens to volumes, forks and forks of forks, each snapshot stays as it was, and nothing leaks', async (t) => {
  await checkProperty(
    t,
    fc.property(steps, (sequence) => {
      const before = memoryInUse().used;
      const session: Session = { volumes: [new MemfsVolume()], snapshots: [] };
      for (const { run } of sequence) run(session);
      for (const { snapshot, expected } of session.snapshots) {
        const fork = snapshot.fork();
        assert.deepEqual(describe(fork), expected);
        assert.deepEqual([...fork.changes()], []);
        fork.discard();
      }
      for (const volume of session.volumes) {
        const copy = volume.fork();
        assert.deepEqual(describe(copy), describe(volume));
        assert.deepEqual(copy.tree.space.pages, volume.tree.space.pages);
        assert.deepEqual(copy.tree.space.inodes, volume.tree.space.inodes);
        copy.reset();
        assert.deepEqual([copy.tree.space.pages, copy.tree.space.inodes], [0, 1]);
        copy.discard();
      }
      for (const volume of session.volumes) volume.discard();
      for (const { snapshot } of session.snapshots) snapshot.discard();
      assert.equal(memoryInUse().used, before);
    }),
    { numRuns: Number(process.env['VIRTIOFS_KIT_RUNS'] ?? 150) },
  );
});
