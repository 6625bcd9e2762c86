/**
 * CPU of the overlay beside that of passthrough alone, on one directory, method by method: what a guest's look-ups and reads of
 * a lower's files cost. Run by hand: `node dist/test/bench/overlay.js [calls]`.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { overlay } from '../../backends/overlay/index.js';
import type { Backend, Entry, Opened } from '../../core/backend/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { defaults, host, memoryLayer, root, share } from '../backends/overlay/support.js';

const CALLS = Number(process.argv[2] ?? 20_000);
const ROUNDS = 9;
const FILES = 200;
const PAGE = 4096;

const directory = mkdtempSync('/dev/shm/virtiofs-kit-bench-');
mkdirSync(join(directory, 'd'));
for (let i = 0; i < FILES; i++) writeFileSync(join(directory, 'd', `f${i}`), Buffer.alloc(16 * PAGE));

const kinds: readonly [string, Backend][] = [
  ['passthrough', share(directory)],
  [
    'memfs over passthrough',
    overlay({ ...defaults, upper: await memoryLayer(), lowers: [share(directory)] }) as Backend,
  ],
];

/** Calls of one backend, by name, each on the next of the files. */
async function callsOf(backend: Backend): Promise<Record<string, (at: number) => unknown>> {
  const top = await backend.mount(host);
  const find = async (parent: object, name: string): Promise<object> => {
    const { node } = (await backend.lookup(parent, name, root)) as Entry<object>;
    return node;
  };
  const parent = await find(top, 'd');
  const names = Array.from({ length: FILES }, (_, i) => `f${i}`);
  const nodes: object[] = [];
  const files: unknown[] = [];
  for (const name of names) {
    const node = await find(parent, name);
    nodes.push(node);
    files.push(((await backend.open!(node, 0, root)) as Opened<unknown>).file);
  }
  const buffer = hostBuffer(PAGE);
  return {
    'look-up': (i) => backend.lookup(parent, names[i % FILES]!, root),
    'look-up of nothing': (i) => backend.lookup(parent, `${i % FILES}`, root),
    getattr: (i) => backend.getattr(nodes[i % FILES]!, undefined, root),
    'read 4 KiB': (i) => backend.read!(nodes[i % FILES]!, files[i % FILES], buffer, (i % 16) * PAGE, root),
  };
}

const measured: (readonly [string, Record<string, (at: number) => unknown>])[] = [];
// One after the other: an answer that is refilled is read a turn later here.
for (const [kind, backend] of kinds) measured.push([kind, await callsOf(backend)]);
for (const name of Object.keys(measured[0]![1])) {
  const figures = measured.map(() => [] as number[]);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, [, calls]] of measured.entries()) {
      const call = calls[name]!;
      const before = process.cpuUsage();
      for (let i = 0; i < CALLS; i++) call(i);
      const { user, system } = process.cpuUsage(before);
      figures[index]!.push((user + system) / CALLS);
    }
  }
  const [alone, over] = figures.map((all) => all.toSorted((a, b) => a - b)[ROUNDS >> 1]!);
  const text = `${name}: passthrough ${alone!.toFixed(2)} µs, overlay ${over!.toFixed(2)} µs`;
  process.stdout.write(`${text}, ${(over! / alone!).toFixed(2)} times\n`);
}
rmSync(directory, { recursive: true });
process.exit(0);
