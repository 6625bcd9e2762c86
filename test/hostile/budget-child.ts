import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, ROOT } from '../../core/contract/client.js';
import { Session } from '../../core/fuse/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import { BackendRegistry } from '../../core/plugins/registry.js';
import { eventfd } from '../../core/system/index.js';
import { outcome } from '../backends/passthrough/harness.js';
import { MemoryLog } from '../support/engine.js';

/* Takes as much of one resource as a guest can get by default; then another guest works. */

const [flood, type] = process.argv.slice(2) as [string, string];
const sharedDir = mkdtempSync(join(tmpdir(), 'vfk-budget-'));
const shared = await openExport(
  type === 'passthrough' ? { type, sharedDir } : { type },
  { readOnly: false, locks: 'shared', cache: {}, limits: {} },
  { registry: new BackendRegistry(), log: new MemoryLog() },
);
const elsewhere = mkdtempSync(join(tmpdir(), 'vfk-budget-'));
const neighbour = await openExport(
  type === 'passthrough' ? { type, sharedDir: elsewhere } : { type },
  { readOnly: false, locks: 'shared', cache: {}, limits: {} },
  { registry: new BackendRegistry(), log: new MemoryLog() },
);
const greedy = new Client(new Session(shared));
const other = new Client(new Session(shared));
const beside = new Client(new Session(neighbour));
for (const client of [greedy, other, beside]) await client.init();

const target = 'x'.repeat(4090);
const takers: Record<string, (i: number) => Promise<unknown>> = {
  symlinks: (i) => greedy.symlink(ROOT, `l${i}`, target),
  directories: () => greedy.opendir(ROOT),
  files: () => greedy.open(file.id, 2),
  names: (i) => greedy.mknod(ROOT, `${'n'.repeat(240)}${i}`, 0o100644),
  // Each write is the only one in a chunk, and in all nodes above that but the root.
  'sparse data': (i) => greedy.write(handle, i * 2 ** 23, Uint8Array.of(1)),
  'sparser data': (i) => greedy.write(handle, (i % 64) * 2 ** 47 + i * 2 ** 23, Uint8Array.of(1)),
  xattrs: (i) => greedy.setxattr(file.id, `user.${i}`, new Uint8Array(60_000)),
};
const file = await greedy.mknod(ROOT, 'file', 0o100644);
const handle = await greedy.open(file.id, 2);
let taken = 0;
let code = 'ok';
for (; code === 'ok' && taken < 3_000_000; taken++) code = await outcome(() => takers[flood]!(taken));
// Another guest opens a file and a directory.
const found = await outcome(async () => other.open((await other.lookup(ROOT, 'file')).id));
const listed = await outcome(() => other.opendir(ROOT));
// A guest of another export writes and reads a file.
const written = await outcome(async () => {
  const { file: own } = await beside.create(ROOT, 'own', 0o600, 2);
  await beside.write(own, 0, Uint8Array.of(7));
  if ((await beside.read(own, 0, 9))[0] !== 7) throw new Error('other bytes');
});
// A guest's connection and its eventfds.
const connections = Array.from({ length: 100 }, () => eventfd());
for (const connection of connections) connection.close();
console.log(JSON.stringify({ taken, code, found, listed, written, heap: process.memoryUsage().heapUsed }));
for (const folder of [sharedDir, elsewhere]) rmSync(folder, { recursive: true, force: true });
process.exit(0);
