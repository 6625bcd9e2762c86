/**
 * What a guest that floods a daemon costs another guest of it: latency of one GETATTR at a time
 * with pauses between, beside floods of the same daemon. Beside that, what the machine alone makes
 * of it: the same floods of another daemon. Both front-ends sleep until they are interrupted.
 * By hand: `node dist/test/bench/fairness.js [--rounds N] [--seconds S] [--program MAIN.JS]`.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { getattr, runBench, type Scenario, transfer } from '../../core/bench/index.js';
import { launch, ours, type Daemon } from '../support/daemons.js';
import { whenListening } from './subject.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    program: { type: 'string' },
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
  transfer('write-128k', '32 WRITE of 128 KiB', 32, 128 * KIB, 'write', 'sequential'),
];
const measured = getattr('getattr-d1', 'GETATTR, depth 1', 1);
/** Between an answer and the next request. */
const THINK_US = 200;

if (values.flood === undefined) await main();
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

async function startFlood(socket: string, { key }: Scenario): Promise<ChildProcess> {
  const self = fileURLToPath(import.meta.url);
  const child = spawn(process.execPath, [self, '--socket', socket, '--flood', key], {
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

async function main(): Promise<void> {
  const scratch = mkdtempSync('/dev/shm/virtiofs-kit-fairness-');
  const directory = join(scratch, 'shared');
  mkdirSync(directory);
  const daemon: Pick<Daemon, 'command'> = {
    command(served, socket) {
      const [node, program, ...words] = ours.command(served, socket);
      return [node!, values.program ?? program!, ...words];
    },
  };
  const daemons = ['own', 'other'].map((name) => launch(daemon, directory, join(scratch, name)));
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
        for (const [socket, place] of [
          [other, 'another daemon'],
          [own, 'the same daemon'],
        ] as const) {
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
