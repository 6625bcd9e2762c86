/**
 * What a guest that floods a daemon costs another guest of it: latency of one GETATTR at a time
 * with pauses between, beside floods of the same daemon. Beside that, what the machine alone makes
 * of it: the same floods of another daemon. Both front-ends sleep until they are interrupted.
 *
 * Three processes take turns on the machine's processors, which on a machine with two of them
 * tells more than the daemon does. With `--real-time` whoever measures comes before the daemons,
 * and these before whoever floods, as if each of the first two had a processor.
 * By hand: `node dist/test/bench/fairness.js [--rounds N] [--seconds S] [--program MAIN.JS]
 * [--real-time] [--only WORD]`.
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { getattr, runBench, type Scenario, spinningRows, transfer } from '../../core/bench/index.js';
import { launch } from '../support/daemons.js';
import { whenListening } from './subject.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    program: { type: 'string' },
    'real-time': { type: 'boolean', default: false },
    /** Floods whose key has this word, of the same daemon alone. */
    only: { type: 'string' },
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
const measured = getattr('getattr-d1', 'GETATTR, depth 1', 1);
/** Between an answer and the next request. */
const THINK_US = 200;

const main = fileURLToPath(new URL('../../core/cli/main.js', import.meta.url));

if (values.flood === undefined) await measureAll();
else
  await flood(
    values.socket!,
    floods.find(({ key }) => key === values.flood)!,
  );

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
      backend: { type: 'passthrough', sharedDir: directory },
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
      for (const scenario of floods) {
        if (!scenario.key.includes(values.only ?? '')) continue;
        for (const [socket, place] of [
          [other, 'another daemon'],
          [own, 'the same export'],
          [`${own}-second`, 'another export of the daemon'],
        ] as const) {
          if (values.only !== undefined && socket === other) continue;
          const child = await startFlood(socket, scenario);
          try {
            await measure(`beside ${scenario.title} of ${place}`);
          } finally {
            await end(child);
          }
        }
      }
    }
  } finally {
    await Promise.all(daemons.map((running) => running.stop()));
    rmSync(scratch, { recursive: true });
  }
}
