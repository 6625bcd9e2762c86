import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { totalmem } from 'node:os';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const child = fileURLToPath(new URL('budget-child.js', import.meta.url));
const HEAP_MIB = 96;
const DESCRIPTORS = 2000;
const memory = Math.min(process.constrainedMemory() || Infinity, totalmem());

/** What a flood ends with: how many it took, the errors, how others were served, and the limits. */
interface Outcome {
  readonly taken: number;
  readonly codes: readonly string[];
  readonly found: string;
  readonly listed: string;
  readonly worked: string;
  readonly heap: number;
  readonly limits: Limits;
}

/** The heap's limit in bytes, and limits that follow from it and from the memory. */
interface Limits {
  readonly heap: number;
  readonly nodes: number;
  readonly listings: number;
  readonly locks: { readonly totalLocks: number };
  readonly inodes: number;
  readonly contentBytes: number;
}

/** How many of something the first guest gets, as the table in docs/security.md says. */
function expectedOf({ heap, nodes, locks, inodes }: Limits): Readonly<Record<string, number>> {
  const handles = heap / 4 / 1024;
  const descriptors = (DESCRIPTORS * 3) / 8;
  return {
    // Half of half of the heap, for the first volume; targets of 4,080 characters, of two bytes.
    'memfs: symlinks': heap / 4 / (1024 + 2 * 4080),
    // Beside the root, and the directory and the file of the flood.
    'memfs: names': inodes - 3,
    'memfs: opendir': handles / 2,
    'memfs: open': handles / 2,
    'passthrough: opendir': descriptors / 2,
    'passthrough: open': descriptors / 2,
    'overlay: open': descriptors / 2,
    'overlay: creates': descriptors / 2,
    'memfs: locks': locks.totalLocks,
    'endless: lookups': nodes - 3,
    'stacked: lookups': nodes - 3,
  };
}

for (const [flood, type, errors] of [
  ['symlinks', 'memfs', ['ENOSPC']],
  ['names', 'memfs', ['ENOSPC', 'ENFILE']],
  ['names', 'volumes', ['ENOSPC']],
  ['symlinks', 'volumes', ['ENOSPC']],
  ['sparse data', 'memfs', ['ENOSPC']],
  ['sparser data', 'memfs', ['ENOSPC']],
  ['small xattrs', 'memfs', ['ENOSPC']],
  ['open unlinked', 'memfs', ['ENOSPC', 'ENFILE']],
  ['half-read listings', 'memfs', ['ENFILE']],
  ['half-read listings', 'passthrough', ['ENFILE']],
  ['half-read listings', 'overlay', ['ENOMEM']],
  ['half-read listings', 'union', ['ENOMEM']],
  ['opendir', 'memfs', ['ENFILE']],
  ['opendir', 'passthrough', ['ENFILE']],
  ['open', 'memfs', ['ENFILE']],
  ['open', 'passthrough', ['ENFILE']],
  ['open', 'overlay', ['ENFILE']],
  ['open', 'copied', ['ENFILE', 'EMFILE']],
  ['creates', 'overlay', ['ENFILE']],
  ['locks', 'memfs', ['ENOLCK']],
  ['lookups', 'endless', ['ENFILE']],
  ['lookups', 'stacked', ['ENFILE']],
] as const) {
  test(`${type}: a guest that makes ${flood} without end is refused before the heap is full`, () => {
    const program = [process.execPath, `--max-old-space-size=${HEAP_MIB}`, child, flood, type];
    const run = spawnSync('/bin/sh', ['-c', `ulimit -n ${DESCRIPTORS}; exec "$@"`, 'sh', ...program], {
      encoding: 'utf8',
      timeout: 240_000,
    });
    assert.deepEqual([run.signal, run.status], [null, 0], run.stderr.slice(0, 2000));
    const { codes, found, listed, worked, taken, heap, limits } = JSON.parse(run.stdout) as Outcome;
    assert.ok(
      codes.length > 0 && codes.every((code) => (errors as readonly string[]).includes(code)),
      `${codes} after ${taken}`,
    );
    assert.ok(heap < HEAP_MIB * 2 ** 20);
    const expected = expectedOf(limits)[`${type}: ${flood}`];
    if (expected !== undefined) assert.ok(Math.abs(taken - expected) <= 3, `${taken}, not ${expected}`);
    // Of what the engine does not know of, it can only keep some for connections.
    if (type === 'copied') return;
    assert.deepEqual([found, listed, worked], ['ok', 'ok', 'ok'], 'other guests');
  });
}

for (const heapMib of [96, 8192]) {
  test(`limits follow the memory, and a heap of ${heapMib} MiB`, () => {
    const program = [`--max-old-space-size=${heapMib}`, child, 'opendir', 'memfs'];
    const run = spawnSync(process.execPath, program, {
      encoding: 'utf8',
      env: { ...process.env, FLOOD_MOST: '0' },
    });
    const { heap, nodes, listings, locks, inodes, contentBytes } = (JSON.parse(run.stdout) as Outcome).limits;
    assert.ok(heap >= heapMib * 2 ** 20);
    // A node of memfs takes 128 bytes of the engine, a lock 256, a file with its name 1 KiB.
    assert.equal(nodes, Math.min(4_194_304, Math.floor(heap / 3 / 128)));
    assert.equal(locks.totalLocks, Math.min(1_048_576, Math.floor(heap / 16 / 256)));
    assert.equal(listings, Math.min(2 ** 30, Math.floor(memory / 8)));
    assert.equal(inodes, Math.floor(heap / 4 / 1024));
    assert.equal(contentBytes, Math.floor(memory / 2));
  });
}
