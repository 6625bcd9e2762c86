import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { hostBuffer } from '../../core/memory/host-buffer.js';
import memfs from '../../backends/memfs/index.js';
import { MemoryLog } from '../support/engine.js';

const child = fileURLToPath(new URL('budget-child.js', import.meta.url));
const HEAP_MIB = 96;

for (const [flood, type, errors] of [
  ['symlinks', 'memfs', ['ENOSPC']],
  ['names', 'memfs', ['ENOSPC', 'ENFILE']],
  ['sparse data', 'memfs', ['ENOSPC']],
  ['sparser data', 'memfs', ['ENOSPC']],
  ['small xattrs', 'memfs', ['ENOSPC']],
  ['open unlinked', 'memfs', ['ENOSPC', 'ENFILE']],
  ['half-read listings', 'memfs', ['ENFILE', 'ENOMEM']],
  ['half-read listings', 'passthrough', ['ENFILE', 'ENOMEM']],
  ['half-read listings', 'overlay', ['ENFILE', 'ENOMEM']],
  ['half-read listings', 'union', ['ENFILE', 'ENOMEM']],
  ['opendir', 'memfs', ['ENFILE']],
  ['opendir', 'passthrough', ['ENFILE']],
  ['open', 'memfs', ['ENFILE']],
  ['open', 'passthrough', ['ENFILE']],
  ['open', 'overlay', ['ENFILE']],
  ['open', 'copied', ['ENFILE', 'EMFILE']],
  ['creates', 'overlay', ['ENFILE']],
  ['locks', 'memfs', ['ENOLCK']],
] as const) {
  test(`${type}: a guest that makes ${flood} without end is refused before the heap is full`, () => {
    const program = [process.execPath, `--max-old-space-size=${HEAP_MIB}`, child, flood, type];
    const run = spawnSync('/bin/sh', ['-c', `ulimit -n 2000; exec "$@"`, 'sh', ...program], {
      encoding: 'utf8',
      timeout: 240_000,
    });
    assert.deepEqual([run.signal, run.status], [null, 0], run.stderr.slice(0, 2000));
    const { codes, found, listed, worked, taken, heap } = JSON.parse(run.stdout) as {
      readonly codes: readonly string[];
      readonly [part: string]: unknown;
    };
    assert.ok(
      codes.length > 0 && codes.every((code) => (errors as readonly string[]).includes(code)),
      `${codes} after ${taken}`,
    );
    assert.ok(Number(heap) < HEAP_MIB * 2 ** 20);
    // Of what the engine does not know of, it can only keep some for connections.
    if (type === 'copied') return;
    assert.deepEqual([found, listed, worked], ['ok', 'ok', 'ok'], 'other guests');
  });
}

test(
  'a volume that has no room where it is to be saved waits for it, and is not lost',
  process.geteuid!() === 0 ? {} : { skip: 'needs root' },
  async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'vfk-save-'));
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory]).status, 0);
    t.after(() => {
      spawnSync('umount', ['-l', directory]);
      rmSync(directory, { recursive: true });
    });
    const log = new MemoryLog();
    const save = join(directory, 'volume.tar');
    const backend = await memfs.create(memfs.options!.parse({ save }) as never, { log } as never);
    const root = (await backend.mount({ log, createBuffer: hostBuffer })) as object;
    const context = {
      uid: 0,
      gid: 0,
      pid: 1,
      umask: 0,
      groups: [],
      securityContext: undefined,
      signal: new AbortController().signal,
    };
    const made = (await backend.create!(root, 'file', 0o644, 2, context)) as { node: object; file: unknown };
    const data = hostBuffer(2 ** 18);
    await backend.write!(made.node, made.file as never, data, 0, 0, context);
    data.close();
    const ended = Promise.resolve(backend.unmount!());
    while (!log.errors.some((line) => line.startsWith('no room to save'))) await sleep(20);
    assert.deepEqual(readdirSync(directory), []);
    spawnSync('mount', ['-o', 'remount,size=8m', directory]);
    await ended;
    assert.deepEqual(readdirSync(directory), ['volume.tar']);
  },
);
