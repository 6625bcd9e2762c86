/**
 * Compares the CPU time of an overlay (memfs over passthrough) with that of passthrough alone, on
 * one directory, through whole sessions. So it tells what a guest's look-ups and reads of a lower's
 * files cost. Run by hand: `node dist/test/bench/overlay.js [requests]`.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { overlay } from '../../backends/overlay/index.js';
import type { Backend } from '../../core/backend/index.js';
import { Session } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { Export } from '../../core/state/index.js';
import { RequestBytes, FuseClient, Op, ROOT } from '../support/fuse-client.js';
import { Loopback } from '../support/loopback.js';
import { defaults, host, memoryLayer, share } from '../backends/overlay/support.js';
import { Again } from './again.js';

const REQUESTS = Number(process.argv[2] ?? 20_000);
const ROUNDS = 9;
const FILES = 200;
const PAGE_BYTES = 4096;
const LARGE_BYTES = 32 * PAGE_BYTES;

const directory = mkdtempSync('/dev/shm/virtiofs-kit-bench-');
mkdirSync(join(directory, 'd'));
for (let i = 0; i < FILES; i++) writeFileSync(join(directory, 'd', `f${i}`), Buffer.alloc(LARGE_BYTES));

const over = async (): Promise<Backend> =>
  overlay({ ...defaults, upper: await memoryLayer(), lowers: [share(directory)] }) as Backend;

/** In the last one the directory has an entry in the upper, too. */
const kinds: readonly (readonly [name: string, backend: Backend, isMerged: boolean])[] = [
  ['passthrough', share(directory), false],
  ['overlay', await over(), false],
  ['in a merged directory', await over(), true],
];

/** Operations of one session, by name, each on the next of the files. */
async function operationsOf(
  backend: Backend,
  isMerged: boolean,
): Promise<Record<string, (at: number) => void>> {
  const shared = await Export.open(backend, { log: host.log, createBuffer: hostBuffer });
  const session = new Session(shared);
  const client = new FuseClient(new Loopback(session));
  await client.init();
  const { nodeid: parent } = await client.lookup(ROOT, 'd');
  if (isMerged) await client.create(parent, 'own');
  const lookups: Again[] = [];
  const misses: Again[] = [];
  const fresh: Again[] = [];
  const getattrs: Again[] = [];
  const reads: Again[] = [];
  const largeReads: Again[] = [];
  for (let i = 0; i < FILES; i++) {
    const { nodeid } = await client.lookup(parent, `f${i}`);
    const { fh } = await client.open(nodeid);
    const read = (size: number): Again => {
      const args = new RequestBytes().u64(fh).u64(0).u32(size).u32(0).u64(0).u32(0).u32(0);
      return new Again(client.encode(Op.READ, nodeid, args.bytes()), [40, 40], [16, size]);
    };
    lookups.push(lookup(`f${i}`));
    misses.push(lookup(`none${i}`));
    getattrs.push(
      new Again(
        client.encode(Op.GETATTR, nodeid, new RequestBytes().u64(0).u64(0).bytes()),
        [40, 16],
        [16, 104],
      ),
    );
    reads.push(read(PAGE_BYTES));
    largeReads.push(read(LARGE_BYTES));
  }
  // Files that the guest forgets after each operation.
  for (let i = 0; i < FILES; i++) writeFileSync(join(directory, 'd', `g${i}`), Buffer.alloc(PAGE_BYTES));
  for (let i = 0; i < FILES; i++) fresh.push(lookup(`g${i}`));
  const forget = new Again(client.encode(Op.FORGET, ROOT, new RequestBytes().u64(1).bytes()), [40, 8], []);
  const open = new Again(
    client.encode(Op.OPEN, ROOT, new RequestBytes().u32(0).u32(0).bytes()),
    [40, 8],
    [16, 16],
  );
  const pageArgs = new RequestBytes().u64(0n).u64(0).u32(PAGE_BYTES).u32(0).u64(0).u32(0).u32(0);
  const page = new Again(client.encode(Op.READ, ROOT, pageArgs.bytes()), [40, 40], [16, PAGE_BYTES]);
  const releaseArgs = new RequestBytes().u64(0n).u32(0).u32(0).u64(0);
  const release = new Again(client.encode(Op.RELEASE, ROOT, releaseArgs.bytes()), [40, 24], [16]);

  function lookup(name: string): Again {
    const args = new RequestBytes().name(name).bytes();
    return new Again(client.encode(Op.LOOKUP, parent, args), [40, args.length], [16, 128]);
  }

  /** Sends a request on the node that a look-up found, and on the file that OPEN opened. */
  function on(request: Again, found: Again, opened?: Again): void {
    request.setLong(16, found.word(0), found.word(4));
    if (opened !== undefined) request.setLong(40, opened.word(0), opened.word(4));
    const { answered } = request;
    session.dispatch(request);
    if (request.answered === answered) throw new Error('not answered in the same turn');
  }

  return {
    'LOOKUP hit': (i) => session.dispatch(lookups[i % FILES]!),
    'LOOKUP miss': (i) => session.dispatch(misses[i % FILES]!),
    'LOOKUP + FORGET': (i) => {
      const found = fresh[i % FILES]!;
      session.dispatch(found);
      on(forget, found);
    },
    GETATTR: (i) => session.dispatch(getattrs[i % FILES]!),
    'READ 4 KiB': (i) => session.dispatch(reads[i % FILES]!),
    'READ 128 KiB': (i) => session.dispatch(largeReads[i % FILES]!),
    'LOOKUP + OPEN + READ 4 KiB + RELEASE + FORGET': (i) => {
      const found = fresh[i % FILES]!;
      session.dispatch(found);
      on(open, found);
      on(page, found, open);
      on(release, found, open);
      on(forget, found);
    },
  };
}

const measured: Record<string, (at: number) => void>[] = [];
for (const [, backend, isMerged] of kinds) measured.push(await operationsOf(backend, isMerged));
for (const name of Object.keys(measured[0]!)) {
  const figures = measured.map(() => [] as number[]);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, operations] of measured.entries()) {
      const operation = operations[name]!;
      const before = process.cpuUsage();
      for (let i = 0; i < REQUESTS; i++) operation(i);
      const { user, system } = process.cpuUsage(before);
      figures[index]!.push((user + system) / REQUESTS);
    }
  }
  const medians = figures.map((all) => all.toSorted((a, b) => a - b)[ROUNDS >> 1]!);
  const text = kinds.map(([kind], i) => {
    const median = medians[i]!;
    return `${kind} ${median.toFixed(2)} µs (${(median / medians[0]!).toFixed(2)})`;
  });
  process.stdout.write(`${name}: ${text.join(', ')}\n`);
}
rmSync(directory, { recursive: true });
process.exit(0);
