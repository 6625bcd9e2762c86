import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import passthrough from '../../backends/passthrough/index.js';
import { type Backend, type Entry, Errno, FileType } from '../../core/backend/index.js';
import { defaultInodes, defaultSize } from '../../backends/memfs/limits.js';
import { Session } from '../../core/fuse/index.js';
import { openExport } from '../../core/plugins/open-export.js';
import { BackendRegistry } from '../../core/plugins/registry.js';
import { heapLimit } from '../../core/backend/limits.js';
import { defaultExportLimits } from '../../core/state/export.js';
import { cached, encrypted, quota } from '../../core/wrappers/index.js';
import { eventfd } from '../../core/system/index.js';
import { MemoryLog } from '../support/engine.js';
import { floods, groundOf } from '../support/floods.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { Loopback } from '../support/loopback.js';
import { TinyBackend, TinyNode } from '../support/tiny-backend.js';

/*
 * One guest takes as much as it gets of one resource, with default limits. Then two others work,
 * on the same export and on another.
 *
 *   node budget-child.js FLOOD memfs|volumes|passthrough|overlay|union|copied|endless|stacked
 *
 * `volumes` are several of memfs, one after the other, some of them within a quota.
 * `copied` is passthrough as an object of somebody's own: the engine does not know of descriptors.
 * `endless` has a file of every name; `stacked` has it below several wrappers.
 */

/** Refusals in a row after which a resource is exhausted. */
const REFUSALS = 100;
const MOST = Number(process.env['FLOOD_MOST'] ?? 3_000_000);

const [flood, type] = process.argv.slice(2) as [string, string];
const folder = mkdtempSync(join(tmpdir(), 'vfk-budget-'));

/** Options of a backend whose files lie in a folder of their own. */
function backend(name: string): { readonly type: string } {
  const shared = (part: string) => {
    const sharedDir = join(folder, name, part);
    mkdirSync(sharedDir, { recursive: true });
    return { type: 'passthrough', sharedDir };
  };
  if (type === 'passthrough' || type === 'copied') return shared('shared');
  if (type === 'memfs') return { type };
  if (type === 'volumes') {
    const of = { type: 'memfs' };
    return name.startsWith('further')
      ? ({ type: 'quota', inodes: 2 ** 40, of } as { readonly type: string })
      : of;
  }
  const options = { type: 'overlay', lowers: [shared('lower')] };
  const upper = type === 'union' ? { type: 'memfs' } : shared('upper');
  return { ...options, upper } as { readonly type: string };
}

async function copied(name: string): Promise<Backend> {
  const { type: _, ...options } = { ...backend(name) };
  return {
    ...(await passthrough.create(passthrough.options!.parse(options), { log: new MemoryLog() } as never)),
  };
}

/** Has a file of every name that begins with `endless`. */
class Endless extends TinyBackend {
  override lookup(parent: TinyNode, name: string): Entry<TinyNode> | undefined {
    if (!name.startsWith('endless')) return super.lookup(parent, name);
    const node = Object.assign(Object.create(TinyNode.prototype) as TinyNode, ONE_FILE, { id: 1e6 + taken });
    return { node, attributes: this.getattr(node) };
  }
}
/** Below a directory of the root it has a file of every name, once there is a flood. */
class EndlessBelow extends Endless {
  override lookup(parent: TinyNode, name: string): Entry<TinyNode> | undefined {
    const found = super.lookup(parent, name);
    if (found !== undefined || parent === this.root || !isFlooding) return found;
    return super.lookup(parent, 'endless');
  }
}
let isFlooding = false;

function stacked(): Backend {
  const inner = quota(new EndlessBelow() as Backend, { inodes: 2 ** 40 });
  return cached(encrypted(inner, { key: Buffer.alloc(32, 'key') }) as Backend, { names: Infinity });
}

const ONE_FILE = new TinyNode(FileType.REGULAR | 0o644);

async function open(name: string) {
  const objects: Readonly<Record<string, () => Backend | Promise<Backend>>> = {
    copied: () => copied(name),
    endless: () => new Endless(),
    stacked,
  };
  return openExport(
    (await objects[type]?.()) ?? backend(name),
    { readOnly: false, locks: 'shared', cache: {}, limits: {} },
    { registry: new BackendRegistry(), log: new MemoryLog() },
  );
}

async function guest(shared: Awaited<ReturnType<typeof open>>): Promise<FuseClient> {
  const client = new FuseClient(new Loopback(new Session(shared)));
  await client.init();
  return client;
}

const codes = new Map<number, string>(Object.entries(Errno).map(([code, errno]) => [errno, code]));

async function outcome(call: () => Promise<unknown>): Promise<string> {
  try {
    await call();
    return 'ok';
  } catch (error) {
    return error instanceof FuseError ? (codes.get(error.errno) ?? String(error.errno)) : String(error);
  }
}

/** Makes, writes, reads, lists and removes a file. */
async function work(client: FuseClient): Promise<void> {
  const { nodeid: directory } = await client.mkdir(ROOT, 'own');
  const { entry, open: opened } = await client.create(directory, 'file', 0o600);
  await client.write(entry.nodeid, opened.fh, 0, Uint8Array.of(7));
  if ((await client.read(entry.nodeid, opened.fh, 0, 9))[0] !== 7) throw new Error('other bytes');
  if (!(await client.list(directory)).includes('file')) throw new Error('the file is not listed');
  await client.release(entry.nodeid, opened.fh);
  await client.unlink(directory, 'file');
}

let taken = 0;
const shared = await open('one');
const greedy = await guest(shared);
const other = await guest(shared);
const beside = await guest(await open('two'));
const grounds = [await groundOf(greedy, 'ground')];
if (type === 'volumes')
  for (let i = 0; i < 5; i++) grounds.push(await groundOf(await guest(await open(`further ${i}`)), 'ground'));
isFlooding = true;
const refusals = new Map<string, number>();
for (const ground of grounds) {
  for (let inRow = 0; inRow < REFUSALS && taken < MOST;) {
    const code = await outcome(() => floods[flood]!(ground, taken));
    if (code === 'ok') {
      taken += 1;
      inRow = 0;
    } else {
      inRow += 1;
      refusals.set(code, (refusals.get(code) ?? 0) + 1);
    }
  }
}
// Another guest of the same export opens a file and a directory.
const found = await outcome(async () => other.open((await other.walk('/ground/file')).nodeid));
const listed = await outcome(() => other.opendir(ROOT));
// A guest of another export works.
const worked = await outcome(() => work(beside));
// A guest's connection and its eventfds.
const connections = Array.from({ length: 100 }, () => eventfd());
for (const connection of connections) connection.close();
const codesSeen = [...refusals.keys()];
console.log(
  JSON.stringify({
    taken,
    codes: codesSeen,
    found,
    listed,
    worked,
    heap: process.memoryUsage().heapUsed,
    limits: {
      heap: heapLimit,
      ...defaultExportLimits,
      nodes: shared.limits.nodes,
      inodes: defaultInodes(),
      contentBytes: defaultSize(),
    },
  }),
);
// Deeper than fs.rm can follow.
spawnSync('rm', ['-rf', folder]);
process.exit(0);
