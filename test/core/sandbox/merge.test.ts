import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Backend, DAEMON, FileType, OpenFlags } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/index.js';
import { merge } from '../../../core/sandbox/merge.js';
import { FileWatches } from '../../../core/sandbox/watch.js';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { HostFiles, overlay, type OverlayBackend } from '../../../backends/overlay/index.js';
import { defaults, host } from '../../backends/overlay/support.js';

const LOWER = {
  '/base/kept': 'lower',
  '/base/changed': 'lower',
  '/base/removed': 'lower',
  '/replaced/old': 'lower',
  '/moved/deep/file': 'lower',
  '/moved/other': 'lower',
  '/untouched/file': 'lower',
};

async function box(volume: MemfsVolume, changed?: ConstructorParameters<typeof HostFiles>[1]) {
  const tree: OverlayBackend = overlay({
    ...defaults,
    upper: volume.backend,
    lowers: [MemfsVolume.fromJSON(LOWER).backend],
  });
  const root = await tree.mount(host);
  return { volume, overlay: tree, root, files: new HostFiles(tree, changed) };
}

/** All files with what is in them. */
async function told(files: HostFiles, path = ''): Promise<string[]> {
  const lines: string[] = [];
  const entries = [...(await files.readdir(`${path}/`))].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  for (const { name, type } of entries) {
    const at = `${path}/${name}`;
    if (type === FileType.DIRECTORY) lines.push(at, ...(await told(files, at)));
    else lines.push(`${at} ${type === FileType.REGULAR ? (await files.readFile(at)).toString() : type}`);
  }
  return lines;
}

test('what a fork has changed is carried out in its origin, which has gone on', async () => {
  const origin = await box(new MemfsVolume());
  await origin.files.writeFile('/base/early', 'before');
  await origin.files.writeFile('/base/gone', 'before');
  await origin.files.mkdir('/own/deep');
  await origin.files.writeFile('/own/deep/file', 'before');
  const fork = await box(origin.volume.fork());
  await origin.files.writeFile('/base/later', 'origin');
  await origin.files.writeFile('/own/later', 'origin');
  await origin.files.writeFile('/base/both', 'origin');

  const { files } = fork;
  await files.writeFile('/base/changed', 'fork');
  await files.writeFile('/base/early', 'fork');
  await files.writeFile('/base/both', 'fork');
  await files.rm('/base/removed');
  await files.rm('/base/gone');
  await files.rm('/replaced');
  await files.mkdir('/replaced');
  await files.writeFile('/replaced/new', 'fork', { mode: 0o750, uid: 5, gid: 6 });
  await files.rename('/moved', '/elsewhere');
  await files.rm('/own/deep');
  await files.writeFile('/own/deep', 'now a file');
  const base = (await fork.overlay.lookup(fork.root, 'base', DAEMON))!.node;
  await fork.overlay.symlink!(base, 'link', '../own', DAEMON);

  const done = (await merge(fork, origin.files)).map(({ kind, path }) => `${kind} ${path}`);
  assert.deepEqual(done.toSorted(), [
    'added /base/link',
    'added /elsewhere',
    'added /elsewhere/deep',
    'added /elsewhere/deep/file',
    'added /elsewhere/other',
    'added /replaced',
    'added /replaced/new',
    'changed /base/both',
    'changed /base/changed',
    'changed /base/early',
    'changed /own/deep',
    'removed /base/gone',
    'removed /base/removed',
    'removed /moved',
    'removed /own/deep/file',
  ]);
  const { mode, uid, gid } = await origin.files.stat('/replaced/new');
  assert.deepEqual([mode & 0o7777, uid, gid], [0o750, 5, 6]);
  const own = ['/base/later origin', '/own/later origin'];
  assert.deepEqual(
    (await told(origin.files)).filter((line) => !own.includes(line)),
    await told(fork.files),
  );
  assert.deepEqual(
    (await told(origin.files)).filter((line) => own.includes(line)),
    own,
  );
});

test('changes are told, whoever makes them, at and below a path', async () => {
  const watches = new FileWatches();
  const {
    overlay: tree,
    root,
    files,
  } = await box(new MemfsVolume(), (changes) => {
    watches.tell(changes);
    return Promise.resolve();
  });
  const guest = watches.over(tree) as Backend;
  const stop = new AbortController();
  const events = watches.read('/base', stop.signal);
  const all = watches.read('/', undefined);
  const base = (await guest.lookup(root, 'base', DAEMON))!.node;
  const { node, file } = await guest.create!(base, 'made', 0o644, OpenFlags.READ_WRITE, DAEMON);
  for (let count = 0; count < 3; count++) await guest.write!(node, file, hostBuffer(3), 0, 0, DAEMON);
  await guest.rename!(base, 'made', root, 'new', 0, DAEMON);
  await guest.write!(node, file, hostBuffer(3), 0, 0, DAEMON);
  await guest.unlink!(base, 'removed', DAEMON);
  await guest.unlink!(root, 'new', DAEMON);
  await guest.setattr!(node, { size: 1 }, file, DAEMON);
  await files.writeFile('/base/kept', 'host');
  await files.mkdir('/base/a/b');
  await files.rename('/base/kept', '/kept');
  const read: string[] = [];
  stop.abort();
  for await (const { kind, path } of events) read.push(`${kind} ${path}`);
  assert.deepEqual(read, [
    'added /base/made',
    'changed /base/made',
    'removed /base/made',
    'removed /base/removed',
    'changed /base/kept',
    'added /base/a',
    'added /base/a/b',
    'removed /base/kept',
  ]);
  const first = async (): Promise<unknown> => (await all.next()).value;
  assert.deepEqual(await first(), { kind: 'added', path: '/base/made' });
  for (let count = 0; count < 5000; count++) watches.tell([{ kind: 'changed', path: `/many/${count}` }]);
  assert.equal(((await first()) as { kind: string }).kind, 'lost');
  while (((await first()) as { path: string }).path !== '/many/4999');
  // Long paths are counted by what they hold.
  const long = 'x'.repeat(100_000);
  for (let count = 0; count < 11; count++) watches.tell([{ kind: 'changed', path: `/${count}/${long}` }]);
  assert.deepEqual(await first(), { kind: 'lost', path: '/' });
  for (let count = 0; count < 10; count++) watches.tell([{ kind: 'changed', path: `/${count}/${long}` }]);
  for (let count = 0; count < 10; count++)
    assert.equal(((await first()) as { path: string }).path.slice(0, 3), `/${count}/`);
  const waiting = [...Array(1000).keys()].map(() => all.next());
  watches.end();
  assert.equal((await Promise.all(waiting)).at(-1)!.done, true);
  assert.equal((await watches.read('/', undefined).next()).done, true);
});
