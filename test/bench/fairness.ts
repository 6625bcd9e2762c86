/**
 * What a guest that floods a daemon costs another guest of it: latency of one GETATTR at a time
 * with pauses between, beside floods of the same daemon. Beside that, what the machine alone makes
 * of it: the same floods of another daemon. Both front-ends sleep until they are interrupted.
 *
 * Three processes take turns on the machine's processors, which on a machine with two of them
 * tells more than the daemon does. With `--real-time` whoever measures comes before the daemons,
 * and these before whoever floods, as if each of the first two had a processor.
 * By hand: `node dist/test/bench/fairness.js [--rounds N] [--seconds S] [--program MAIN.JS]
 * [--real-time] [--only WORD] [--kind KIND]`. KIND is `one` (the engine's thread, the default),
 * `threads` (queue threads: whoever measures has one of his own), `thread` (he shares a queue
 * thread with whoever floods), or `memfs` (copies within a file of memfs).
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { getattr, runBench, type Scenario, spinningRows, transfer } from '../../core/bench/index.js';
import { ARGUMENTS, type RequestSlot } from '../../core/bench/request-slot.js';
import type { Prepared } from '../../core/bench/scenarios.js';
import type { WorkArea } from '../../core/bench/work-area.js';
import { Opcode } from '../../core/fuse/index.js';
import { fuse_copy_file_range_in } from '../../core/fuse/wire/structures.js';
import { launch } from '../support/daemons.js';
import { FrontEnd } from '../support/front-end.js';
import { program as main } from '../support/program.js';
import { whenListening } from './subject.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    program: { type: 'string' },
    'real-time': { type: 'boolean', default: false },
    /** Floods whose key has this word, of the same daemon alone. */
    only: { type: 'string' },
    kind: { type: 'string', default: 'one' },
    /** For the process that floods: the socket, and which flood. */
    socket: { type: 'string' },
    flood: { type: 'string' },
  },
});

const KIB = 1024;
const floods: readonly Scenario[] = [
  getattr('getattr', '32 GETATTR', 32),
  transfer('read-4k', '32 READ of 4 KiB', 32, 4 * KIB, 'read', 'random'),
  transfer('read-128k', '32 READ of 128 KiB', 32, 128 * KIB, 'read', 'sequential'),
  transfer('read-1m', '16 READ of 1 MiB', 16, KIB * KIB, 'read', 'sequential'),
  transfer('write-1m', '16 WRITE of 1 MiB', 16, KIB * KIB, 'write', 'sequential'),
  spinningRows.find(({ key }) => key === 'readdirplus')!,
  transfer('write-128k', '32 WRITE of 128 KiB', 32, 128 * KIB, 'write', 'sequential'),
];
/** Copies within a file of memfs: whole chunks, which are shared, and others. */
const copies: readonly Scenario[] = [
  copy('copy-64m', '16 COPY_FILE_RANGE of 64 MiB that are shared', 0),
  copy('copy-8m', '16 COPY_FILE_RANGE of up to 8 MiB', 1),
];
const measured = getattr('getattr-d1', 'GETATTR, depth 1', 1);
/** Between an answer and the next request. */
const THINK_US = 200;

if (values.flood === undefined) await measureAll();
else
  await flood(
    values.socket!,
    [...floods, ...copies].find(({ key }) => key === values.flood)!,
  );

/** Copies of the first half of a file to its other half, `shift` bytes behind it. */
function copy(key: string, title: string, shift: number): Scenario {
  const half = 64 * KIB * KIB;
  const prepare = (area: WorkArea): Prepared => {
    const file = area.file(2 * half);
    const begin = (slot: RequestSlot): void => {
      slot.request(Opcode.COPY_FILE_RANGE, file.node, file.nodeHigh, fuse_copy_file_range_in.bytes, 8);
      slot.words.fill(0, ARGUMENTS, ARGUMENTS + fuse_copy_file_range_in.bytes / 4);
      const put = (at: number, low: number, high = 0): void => {
        slot.words[ARGUMENTS + (at >> 2)] = low;
        slot.words[ARGUMENTS + (at >> 2) + 1] = high;
      };
      put(fuse_copy_file_range_in.fh_in, file.file, file.fileHigh);
      put(fuse_copy_file_range_in.nodeid_out, file.node, file.nodeHigh);
      put(fuse_copy_file_range_in.fh_out, file.file, file.fileHigh);
      put(fuse_copy_file_range_in.off_out, half + shift);
      put(fuse_copy_file_range_in.len, half - shift);
    };
    return { load: { begin, next: () => false } };
  };
  return { key, title, depth: 16, dataBytes: 0, prepare };
}

/** Floods until it is ended. */
async function flood(socket: string, scenario: Scenario): Promise<void> {
  const options = { seconds: 3600, warmUpSeconds: 0.5, onProgress: () => process.send!('begins') };
  await runBench([{ name: 'flood', socket }], [scenario], options);
}

/** Has a process run by a priority of its own (sched(7), SCHED_RR), if that is asked for. */
function prioritized(priority: number, words: readonly string[]): [string, ...string[]] {
  const all = values['real-time'] ? ['chrt', '-r', `${priority}`, ...words] : words;
  return all as [string, ...string[]];
}

async function startFlood(socket: string, { key }: Scenario): Promise<ChildProcess> {
  const self = fileURLToPath(import.meta.url);
  const [program, ...words] = prioritized(10, [process.execPath, self, '--socket', socket, '--flood', key]);
  const child = spawn(program, words, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  await once(child, 'message');
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

async function measureAll(): Promise<void> {
  if (values['real-time'])
    spawnSync('chrt', ['-a', '-r', '-p', '30', `${process.pid}`], { stdio: 'inherit' });
  const scratch = mkdtempSync('/dev/shm/virtiofs-kit-fairness-');
  const directory = join(scratch, 'shared');
  mkdirSync(directory);
  const daemons = ['own', 'other'].map((name) => {
    const [socket, second, file] = ['', '-second', '.json'].map((end) => join(scratch, name + end));
    const exported = (path: string, tag: string) => ({
      socket: path,
      tag,
      requestQueues: 2,
      ...(values.kind.startsWith('thread') ? { queueThreads: 1 } : {}),
      backend: values.kind === 'memfs' ? { type: 'memfs' } : { type: 'passthrough', sharedDir: directory },
    });
    const config = { exports: [exported(socket!, 'first'), exported(second!, 'second')] };
    writeFileSync(file!, JSON.stringify({ log: { level: 'warn' }, ...config }));
    const words = ['serve', '--config', file!];
    const command = (): readonly string[] =>
      prioritized(20, [process.execPath, values.program ?? main, ...words]);
    return launch({ command }, directory, socket!);
  });
  const [own, other] = daemons.map(({ socket }) => socket) as [string, string];
  try {
    await Promise.all(daemons.map(whenListening));
    // Queues are dealt out in turn, to the engine's thread and the queue thread.
    const connectsIdle = values.kind === 'thread';
    if (connectsIdle) await FrontEnd.connect(own);
    const measure = async (beside: string): Promise<void> => {
      const { rows } = await runBench([{ name: beside, socket: own }], [measured], {
        seconds: Number(values.seconds),
        rounds: 1,
        thinkTimeUs: THINK_US,
      });
      const { medianLatencyUs, p99LatencyUs } = rows[0]!.measurements[0]!.rounds[0]!;
      console.log(
        `${medianLatencyUs.toFixed(0).padStart(8)} ${p99LatencyUs.toFixed(0).padStart(8)}  ${beside}`,
      );
    };
    console.log('µs: half within, 99 % within');
    for (let round = 0; round < Number(values.rounds); round++) {
      await measure('alone');
      for (const scenario of values.kind === 'memfs' ? copies : floods) {
        if (!scenario.key.includes(values.only ?? '')) continue;
        for (const [socket, place] of [
          [other, 'another daemon'],
          [own, 'the same export'],
          [`${own}-second`, 'another export of the daemon'],
        ] as const) {
          if (values.only !== undefined && socket === other) continue;
          if (connectsIdle && socket !== own) continue;
          const child = await startFlood(socket, scenario);
          const idle = connectsIdle ? await FrontEnd.connect(own) : undefined;
          try {
            await measure(`beside ${scenario.title} of ${place}`);
          } finally {
            await end(child);
            await idle?.close();
          }
        }
      }
    }
  } finally {
    await Promise.all(daemons.map((running) => running.stop()));
    rmSync(scratch, { recursive: true });
  }
}
