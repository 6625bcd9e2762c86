import assert from 'node:assert/strict';
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { FileType, makeDevice, OpenFlags } from '../../core/backend/index.js';
import { Client, ROOT } from '../../core/contract/client.js';
import { Session } from '../../core/fuse/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import { BackendRegistry } from '../../core/plugins/registry.js';
import { setEffectiveGid, setEffectiveUid } from '../../core/system/calls/credentials.js';
import { outcome } from '../backends/passthrough/harness.js';
import { MemoryLog } from '../support/engine.js';

const asRoot = process.geteuid!() === 0 ? {} : { skip: 'needs root' };
/** What chown(2) and setresuid(2) take for "leave it as it is". */
const NONE = 0xffffffff;
const WHOLE = 4294967295;

const squash = {
  translateUid: [`squash-guest:0:5001:${WHOLE}`],
  translateGid: [`squash-guest:0:5001:${WHOLE}`],
};
const map = { translateUid: ['map:0:100000:65536'], translateGid: ['map:0:100000:65536'] };

interface Guest {
  readonly client: Client;
  /** The directory of the host that has the files, if one has. */
  readonly directory: string;
}

/** Mounts a backend for one guest. */
async function guest(t: TestContext, type: string, given: Record<string, unknown> = {}): Promise<Guest> {
  const directory = mkdtempSync(join(tmpdir(), 'vfk-ids-'));
  const options: Record<string, unknown> = { ...given };
  let files = directory;
  if (type === 'passthrough') options['sharedDir'] = directory;
  if (type === 'overlay') {
    for (const name of ['lower', 'upper']) mkdirSync(join(directory, name));
    files = join(directory, 'upper');
    options['lowers'] = [{ type: 'passthrough', sharedDir: join(directory, 'lower') }];
    options['upper'] = { type: 'passthrough', sharedDir: files };
  }
  const shared = await openExport(
    { type, ...options },
    { readOnly: false, locks: 'shared', cache: {}, limits: {} },
    { registry: new BackendRegistry(), log: new MemoryLog() },
  );
  const session = new Session(shared);
  const client = new Client(session);
  t.after(async () => {
    client.close();
    await session.close();
    await shared.close();
    rmSync(directory, { recursive: true, force: true });
  });
  await client.init();
  return { client, directory: files };
}

/** An access control list with an entry for one user or group. */
function acl(tag: number, id: number): Uint8Array {
  const entries = [
    [0x01, 7, NONE],
    [tag, 7, id],
    [0x04, 5, NONE],
    [0x10, 7, NONE],
    [0x20, 5, NONE],
  ].sort((a, b) => a[0]! - b[0]!);
  const value = new DataView(new ArrayBuffer(4 + entries.length * 8));
  value.setUint32(0, 2, true);
  entries.forEach(([kind, permissions, user], index) => {
    value.setUint16(4 + index * 8, kind!, true);
    value.setUint16(6 + index * 8, permissions!, true);
    value.setUint32(8 + index * 8, user!, true);
  });
  return new Uint8Array(value.buffer);
}

const backends: [string, string, Record<string, unknown>][] = [
  ['passthrough', 'passthrough', {}],
  ['passthrough that squashes', 'passthrough', squash],
  ['passthrough that maps', 'passthrough', map],
  ['memfs', 'memfs', {}],
  ['overlay', 'overlay', {}],
];

for (const [name, type, options] of backends) {
  test(`${name}: the id that is none makes no file and owns none`, asRoot, async (t) => {
    const { client, directory } = await guest(t, type, options);
    const d = await client.mkdir(ROOT, 'd');
    const made = [
      () => client.mkdir(d.id, 'directory', 0o6755),
      () => client.mknod(d.id, 'file', FileType.REGULAR | 0o6755),
      () => client.mknod(d.id, 'disk', FileType.BLOCK | 0o666, makeDevice(8, 0)),
      () => client.symlink(d.id, 'link', 'target'),
      () => client.create(d.id, 'open', 0o6755, OpenFlags.READ_WRITE),
      () => client.tmpfile(d.id, 0o6755, OpenFlags.READ_WRITE),
    ];
    for (const caller of [
      { uid: NONE, gid: 1000 },
      { uid: 1000, gid: NONE },
      { uid: NONE, gid: NONE },
    ]) {
      client.caller = caller;
      for (const make of made) assert.equal(await outcome(make), 'EINVAL', String(make));
    }
    client.caller = { uid: 0, gid: 0 };
    const before = await client.stat(d.id);
    assert.equal(await outcome(() => client.change(d.id, { uid: NONE })), 'EINVAL');
    assert.equal(await outcome(() => client.change(d.id, { gid: NONE })), 'EINVAL');
    assert.equal(await outcome(() => client.change(d.id, { uid: NONE, gid: 1, mode: 0o6777 })), 'EINVAL');
    assert.deepEqual(await client.stat(d.id), before);
    if (type !== 'memfs') assert.deepEqual(readdirSync(join(directory, 'd')), []);
    const other = options['translateUid'] === undefined ? 'ok' : 'EOPNOTSUPP';
    for (const tag of [0x02, 0x08]) {
      const list = 'system.posix_acl_access';
      assert.equal(await outcome(() => client.setxattr(d.id, list, acl(tag, NONE))), 'EINVAL');
      assert.equal(await outcome(() => client.setxattr(d.id, list, acl(tag, 1000))), other);
    }
    // A request for which an id has no meaning may have it: Linux sends it (FUSE_INVALID_UIDGID).
    client.caller = { uid: NONE, gid: NONE };
    assert.equal((await client.lookup(ROOT, 'd')).id, d.id);
    assert.equal((await client.stat(d.id)).ino, before.ino);
  });
}

test('no id becomes the one that is none by translation', asRoot, async (t) => {
  const { client, directory } = await guest(t, 'passthrough', {
    translateUid: [`guest:7:${NONE}:1`],
    translateGid: [`map:0:${NONE - 10}:11`],
  });
  for (const caller of [
    { uid: 7, gid: 0 },
    { uid: 8, gid: 10 },
  ]) {
    client.caller = caller;
    assert.equal(await outcome(() => client.mkdir(ROOT, 'd')), 'EINVAL');
  }
  assert.equal(existsSync(join(directory, 'd')), false);
  client.caller = { uid: 8, gid: 9 };
  const d = await client.mkdir(ROOT, 'd');
  assert.equal(await outcome(() => client.change(d.id, { uid: 7 })), 'EINVAL');
  assert.equal(lstatSync(join(directory, 'd')).uid, 8);
  await assert.rejects(guest(t, 'passthrough', { translateUid: [`squash-guest:0:${NONE}:9`] }), /last id/);
});

test('a thread cannot be told to take the id that is none', () => {
  assert.equal(setEffectiveUid(NONE), -22);
  assert.equal(setEffectiveUid(-1), -22);
  assert.equal(setEffectiveGid(NONE), -22);
  assert.equal(setEffectiveGid(-1), -22);
});

/** Version 2 of `struct vfs_cap_data`: all capabilities, in effect. */
const capabilities = Uint8Array.from([1, 0, 0, 2, 255, 255, 255, 255, 0, 0, 0, 0, 255, 1, 0, 0, 0, 0, 0, 0]);

test('where owners are translated, guests make nothing that is privileged on the host', asRoot, async (t) => {
  for (const rules of [map, squash, { ...map, xattrmap: ':ok:all:::' }]) {
    const { client, directory } = await guest(t, 'passthrough', rules);
    for (const type of [FileType.BLOCK, FileType.CHARACTER]) {
      const node = () => client.mknod(ROOT, 'disk', type | 0o666, makeDevice(8, 0));
      assert.equal(await outcome(node), 'EPERM');
    }
    assert.deepEqual(readdirSync(directory), []);
    const tool = await client.mknod(ROOT, 'tool', FileType.REGULAR | 0o755);
    const set = () => client.setxattr(tool.id, 'security.capability', capabilities);
    assert.equal(await outcome(set), 'EPERM');
    await client.setxattr(tool.id, 'security.other', Uint8Array.of(1));
    // What a guest's overlay makes, and Linux lets everyone make.
    await client.mknod(ROOT, 'whiteout', FileType.CHARACTER, 0);
    await client.mknod(ROOT, 'fifo', FileType.FIFO | 0o600);
  }
});

test('guests make device nodes and set file capabilities where the operator allows it', asRoot, async (t) => {
  for (const options of [{ ...map, privilegedFiles: 'allow' }, {}]) {
    const { client } = await guest(t, 'passthrough', options);
    await client.mknod(ROOT, 'disk', FileType.BLOCK | 0o600, makeDevice(8, 0));
    const tool = await client.mknod(ROOT, 'tool', FileType.REGULAR | 0o755);
    await client.setxattr(tool.id, 'security.capability', capabilities);
  }
  const { client } = await guest(t, 'passthrough', { privilegedFiles: 'refuse' });
  const disk = () => client.mknod(ROOT, 'disk', FileType.BLOCK | 0o600, makeDevice(8, 0));
  assert.equal(await outcome(disk), 'EPERM');
});
