/**
 * Measures the whole path of a request in one process and one thread: a driver's ring, the engine,
 * and passthrough on a directory in memory. It prints the nanoseconds that the device takes for a
 * request, 32 at a time: the median of all batches, and the best tenth. These differ less from run
 * to run than figures of a daemon, so that small changes show. The guest's memory is in this
 * processor's cache, which it is not with a daemon.
 *
 * With the word `inflight` the queue tracks what is in flight, with `journal` also what a process
 * that follows a killed one must know. With `names`: requests one at a time that open, make and
 * remove files; with `many`: the same for one name after the other of 4,000. With `trace`: records
 * are made of all, as for `virtiofs-kit trace`, and at the end the nanoseconds are told that a line
 * of the access log takes beside that. Run by hand:
 *
 * `node dist/test/bench/request-path.js [requests] [WORD of a name] [inflight] [journal] [names]
 * [many] [trace]`.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import passthrough from '../../backends/passthrough/index.js';
import { Session } from '../../core/fuse/index.js';
import { inlineMore } from '../../core/plugins/index.js';
import { makeJournalMemory } from '../../core/plugins/lasting-memory.js';
import { hostBuffer } from '../../core/memory/index.js';
import { Export, Journal } from '../../core/state/index.js';
import { CaptureReader, requestLine, Tracing } from '../../core/trace/index.js';
import { RecordBuffer } from '../../core/trace/record-buffer.js';
import { DATA, GUEST, Rig } from '../core/virtqueue/rig.js';
import { RequestBytes, FuseClient, Op, ROOT } from '../support/fuse-client.js';

inlineMore();
const requests = Number(process.argv[2] ?? 1_000_000);
const journal = process.argv.includes('journal');
const inflight = journal || process.argv.includes('inflight');
const names = process.argv.includes('names');
const many = process.argv.includes('many');
const OPTIONS = ['inflight', 'journal', 'names', 'many', 'trace'];
const word = process.argv.slice(3).find((each) => !OPTIONS.includes(each)) ?? '';
const PAGE_BYTES = 4096;
const BATCH = 32;
/** With `many`: names, and how many of them are looked up, made and removed together. */
const NAMES = 4000;
const TOGETHER = 8;
const STRIDE_BYTES = 4 * PAGE_BYTES;

const folder = mkdtempSync('/dev/shm/virtiofs-kit-path-');
const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const options = passthrough.options.parse({ sharedDir: folder });
const environment = { log: quiet } as unknown as Parameters<typeof passthrough.create>[1];
const shared = await Export.open(await passthrough.create(options, environment), {
  log: quiet,
  createBuffer: hostBuffer,
});
const tracing = new Tracing();
const session = new Session(shared, { observed: tracing.add('bench') });
const records = new RecordBuffer(2 ** 24);
if (process.argv.includes('trace')) tracing.open({ buffer: records, data: false });
const capture = new CaptureReader();
const lines = { count: 0, milliseconds: 0, characters: 0 };

/** Makes lines of what was captured. */
function makeLines(): void {
  for (let piece = records.take(); piece !== undefined; piece = records.take()) {
    const begun = performance.now();
    for (const event of capture.read(piece)) {
      if ('lost' in event) continue;
      lines.count += 1;
      lines.characters += requestLine(event).length;
    }
    lines.milliseconds += performance.now() - begun;
  }
}
if (journal) {
  const holder = { hold: () => 1, drop: () => undefined };
  const kept = new Journal(shared, { memory: makeJournalMemory(), holder, log: quiet });
  session.journal = kept.register(session, { connection: 0, socket: 0 });
  kept.begin();
}

/** Nanoseconds of each request that {@link client} made. */
const singles: number[] = [];

const rig = new Rig({
  size: 256,
  eventIdx: true,
  indirect: 8,
  memory: 16 * 2 ** 20,
  ...(inflight ? { inflight: 256 } : {}),
});
const { driver, queue } = rig;
queue.start(session);
driver.enableInterrupts();

// The set-up goes through the ring, too. Memory of other kinds would make V8 compile the measured
// code for more cases than it meets in a daemon.
const client = new FuseClient({
  request(_queue, input, outSize) {
    rig.bytes.set(input, DATA);
    driver.begin();
    driver.readable(GUEST + DATA, input.length);
    driver.writable(GUEST + DATA + PAGE_BYTES, outSize);
    driver.submit();
    driver.publish();
    const begun = performance.now();
    queue.kick();
    singles.push((performance.now() - begun) * 1e6);
    driver.poll();
    driver.enableInterrupts();
    return Promise.resolve(rig.bytes.slice(DATA + PAGE_BYTES, DATA + PAGE_BYTES + driver.usedLength));
  },
});
await client.init();
writeFileSync(`${folder}/file`, new Uint8Array(1 << 20));
const { nodeid } = await client.lookup(ROOT, 'file');
const { fh } = await client.open(nodeid, 2);

interface Case {
  readonly name: string;
  readonly request: Uint8Array;
  /** Lengths of the segments, as Linux cuts them. */
  readonly readable: readonly number[];
  readonly writable: readonly number[];
}

const args = () => new RequestBytes().u64(fh).u64(0).u32(PAGE_BYTES).u32(0).u64(0).u32(0).u32(0);
const all: readonly Case[] = [
  {
    name: 'GETATTR',
    request: client.encode(Op.GETATTR, nodeid, new RequestBytes().u64(0).u64(0).bytes()),
    readable: [40, 16],
    writable: [16, 104],
  },
  {
    name: 'READ 4 KiB',
    request: client.encode(Op.READ, nodeid, args().bytes()),
    readable: [40, 40],
    writable: [16, PAGE_BYTES],
  },
  {
    name: 'WRITE 4 KiB',
    request: client.encode(Op.WRITE, nodeid, args().raw(new Uint8Array(PAGE_BYTES)).bytes()),
    readable: [40, 40, PAGE_BYTES],
    writable: [16, 8],
  },
  {
    name: 'LOOKUP hit',
    request: client.encode(Op.LOOKUP, ROOT, new RequestBytes().name('file').bytes()),
    readable: [40, 5],
    writable: [16, 128],
  },
  {
    name: 'LOOKUP miss',
    request: client.encode(Op.LOOKUP, ROOT, new RequestBytes().name('none').bytes()),
    readable: [40, 5],
    writable: [16, 128],
  },
];

const cases = all.filter(({ name }) => name.includes(word));

/** Lays a request out in each of the places, its pieces apart from each other. */
function place({ request, readable, writable }: Case): readonly (readonly [number, number, boolean])[][] {
  return Array.from({ length: BATCH }, (_, i) => {
    const base = DATA + i * STRIDE_BYTES;
    const pieces: [number, number, boolean][] = [];
    let from = 0;
    let at = base;
    for (const length of readable) {
      if (length === PAGE_BYTES) at = base + PAGE_BYTES;
      rig.bytes.set(request.subarray(from, from + length), at);
      pieces.push([GUEST + at, length, false]);
      from += length;
      at += 64;
    }
    at = base + 512;
    for (const length of writable) {
      pieces.push([GUEST + (length === PAGE_BYTES ? base + 2 * PAGE_BYTES : at), length, true]);
      at += 128;
    }
    return pieces;
  });
}

/** How many requests have come back since the last call. */
function returnedNow(): number {
  let returned = 0;
  while (driver.poll() >= 0) returned += 1;
  return returned;
}

function run(places: readonly (readonly [number, number, boolean])[][], count: number): number[] {
  const times: number[] = [];
  for (let done = 0; done < count;) {
    for (const pieces of places) {
      driver.begin();
      for (const [address, length, writable] of pieces) {
        if (writable) driver.writable(address, length);
        else driver.readable(address, length);
      }
      driver.submit();
    }
    driver.publish();
    const begun = performance.now();
    queue.kick();
    const nanoseconds = (performance.now() - begun) * 1e6;
    let returned = returnedNow();
    // Where others had the processor for long, the queue rests in the midst of a batch.
    if (returned === BATCH) times.push(nanoseconds / BATCH);
    for (; returned < BATCH; returned += returnedNow()) queue.kick();
    done += BATCH;
    if (!records.isEmpty) makeLines();
    driver.enableInterrupts();
  }
  return times.sort((a, b) => a - b);
}

const log = await client.create(ROOT, 'log', 0o644, 0o2002);

/** As Linux does before it makes a name. */
const isMissing = (name: string): Promise<unknown> => client.lookup(ROOT, name).catch(() => undefined);

const changes: Readonly<Record<string, (i: number) => Promise<unknown>>> = {
  OPEN: async () => {
    const opened = await client.open(nodeid, 2);
    return () => client.release(nodeid, opened.fh);
  },
  MKDIR: async () => {
    await isMissing('made');
    await client.mkdir(ROOT, 'made');
    return () => client.rmdir(ROOT, 'made');
  },
  CREATE: async () => {
    await isMissing('made');
    const { entry, open } = await client.create(ROOT, 'made', 0o644, 0o302);
    return async () => {
      await client.release(entry.nodeid, open.fh);
      await client.unlink(ROOT, 'made');
      await client.send(Op.FORGET, entry.nodeid, new RequestBytes().u64(1).bytes());
    };
  },
  UNLINK: async () => {
    const { entry, open } = await client.create(ROOT, 'made', 0o644, 0o302);
    await client.release(entry.nodeid, open.fh);
    await client.unlink(ROOT, 'made');
    return () => client.send(Op.FORGET, entry.nodeid, new RequestBytes().u64(1).bytes());
  },
  RENAME: async (i) => {
    await client.rename(ROOT, `moved${i % 2}`, ROOT, `moved${(i + 1) % 2}`);
    return () => Promise.resolve();
  },
  APPEND: async () => {
    await client.write(log.entry.nodeid, log.open.fh, 0, new Uint8Array(64));
    return () => Promise.resolve();
  },
};

/** Prints the middle of how long each kind of change took. */
async function runChanges(count: number, isPrinted: boolean): Promise<void> {
  for (const [name, change] of Object.entries(changes)) {
    const times: number[] = [];
    for (let i = 0; i < count; i++) {
      const undo = (await change(i)) as () => Promise<void>;
      times.push(singles.at(-1)!);
      await undo();
      singles.length = 0;
    }
    times.sort((a, b) => a - b);
    const middle = times[times.length >> 1]!.toFixed(0);
    if (isPrinted) process.stdout.write(`${name.padEnd(12)} ${middle.padStart(6)} ns\n`);
  }
}

/** Prints the middle, and the best tenth, of what each kind of request takes. */
async function runMany(rounds: number, isPrinted: boolean): Promise<void> {
  const times = new Map<string, number[]>();
  const step = async <Item, T>(
    kind: string,
    items: readonly Item[],
    call: (item: Item) => Promise<T>,
  ): Promise<T[]> => {
    const results: T[] = [];
    singles.length = 0;
    for (const item of items) results.push(await call(item));
    const all = times.get(kind);
    if (all === undefined) times.set(kind, [...singles]);
    else all.push(...singles);
    return results;
  };
  for (let round = 0; round < rounds; round++) {
    const these = Array.from({ length: TOGETHER }, (_, i) => `f${(round * TOGETHER + i) % NAMES}`);
    await step('LOOKUP', these, isMissing);
    const made = await step('CREATE', these, (name) => client.create(ROOT, name, 0o644, 0o2302));
    await step('APPEND', made, ({ entry, open }) =>
      client.write(entry.nodeid, open.fh, 0, new Uint8Array(64)),
    );
    await step('RELEASE', made, ({ entry, open }) => client.release(entry.nodeid, open.fh));
    await step('LOOKUP new', these, (name) => isMissing(`${name}n`));
    await step('RENAME', these, (name) => client.rename(ROOT, name, ROOT, `${name}n`));
    await step('UNLINK', these, (name) => client.unlink(ROOT, `${name}n`));
    await step('FORGET', made, ({ entry }) => client.forget(entry.nodeid));
  }
  for (const [kind, all] of times) {
    all.sort((a, b) => a - b);
    const middle = all[all.length >> 1]!.toFixed(0).padStart(6);
    const best = all[Math.floor(all.length / 10)]!.toFixed(0).padStart(6);
    if (isPrinted) process.stdout.write(`${kind.padEnd(12)} ${middle} ns, best tenth ${best} ns\n`);
  }
}

if (many) {
  await runMany(1000, false);
  for (let round = 0; round < 3; round++) await runMany(requests / TOGETHER, true);
}
if (names) {
  await client.create(ROOT, 'moved0');
  await runChanges(5_000, false);
  for (let round = 0; round < 3; round++) await runChanges(requests, true);
}
const served = names || many ? [] : cases;
for (const each of served) run(place(each), 100_000);
for (let round = 0; round < 3; round++) {
  for (const each of served) {
    const times = run(place(each), requests);
    const middle = times[times.length >> 1]!.toFixed(0);
    const best = times[Math.floor(times.length / 10)]!.toFixed(0);
    process.stdout.write(
      `${each.name.padEnd(12)} ${middle.padStart(5)} ns, best tenth ${best.padStart(5)} ns\n`,
    );
  }
}
if (lines.count > 0) {
  const one = ((lines.milliseconds * 1e6) / lines.count).toFixed(0);
  const length = (lines.characters / lines.count).toFixed(0);
  process.stdout.write(`a line of ${length} characters takes ${one} ns more\n`);
}
rig.close();
await session.close();
await shared.close();
rmSync(folder, { recursive: true });
