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
const greedy = new Client(new Session(shared));
const other = new Client(new Session(shared));
await greedy.init();
await other.init();

const target = 'x'.repeat(4090);
const takers: Record<string, (i: number) => Promise<unknown>> = {
  symlinks: (i) => greedy.symlink(ROOT, `l${i}`, target),
  directories: () => greedy.opendir(ROOT),
  files: () => greedy.open(file.id, 2),
  names: (i) => greedy.mknod(ROOT, `${'n'.repeat(240)}${i}`, 0o100644),
  xattrs: (i) => greedy.setxattr(file.id, `user.${i}`, new Uint8Array(60_000)),
};
const file = await greedy.mknod(ROOT, 'file', 0o100644);
let taken = 0;
let code = 'ok';
for (; code === 'ok' && taken < 3_000_000; taken++) code = await outcome(() => takers[flood]!(taken));
// Another guest opens a file and a directory.
const found = await outcome(async () => other.open((await other.lookup(ROOT, 'file')).id));
const listed = await outcome(() => other.opendir(ROOT));
// A guest's connection and its eventfds.
const connections = Array.from({ length: 100 }, () => eventfd());
for (const connection of connections) connection.close();
console.log(JSON.stringify({ taken, code, found, listed, heap: process.memoryUsage().heapUsed }));
rmSync(sharedDir, { recursive: true, force: true });
process.exit(0);
