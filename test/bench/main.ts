import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { stringify } from 'yaml';
import {
  plot,
  runBench,
  scenarios,
  sleepingRows,
  spinningRows,
  toJson,
  toTable,
} from '../../core/bench/index.js';
import { cVirtiofsd, launch, ours, rustVirtiofsd, type Daemon } from '../support/daemons.js';
import { compareColdStarts } from './cold-start.js';
import { compareInGuest, groupKeys, guestTable, sharedGroupKeys } from './guest/compare.js';
import { shareOf } from './guest/steps.js';
import { whenListening, type Subject } from './subject.js';

/*
 * Compares this program with Debian's virtiofsds, in turns, on one directory: `npm run bench --
 * --help`.
 */

/**
 * What each backend serves. Those that need a server of their own are measured by `virtiofs-kit
 * bench --socket`.
 */
const backends = {
  passthrough: (sharedDir: string): object => ({ type: 'passthrough', sharedDir }),
  memfs: (): object => ({ type: 'memfs', size: '2g' }),
  overlay: (sharedDir: string): object => ({
    type: 'overlay',
    lowers: [{ type: 'passthrough', sharedDir }],
    upper: { type: 'memfs', size: '2g' },
  }),
};

const keys = scenarios.map(({ key }) => key);

const command = new Command('npm run bench --')
  .description('Measures this program and the virtiofsds there are, in turns, on one directory in memory.')
  .addOption(
    new Option('--backend <NAME>', 'what this program serves')
      .choices(Object.keys(backends))
      .default('passthrough'),
  )
  .option('--virtiofsd <PATH>', 'also measure this virtiofsd: a program, or a folder of unpacked packages')
  .option('--directory <DIR>', 'where the served directory is made', '/dev/shm')
  .option('--rounds <N>', 'measurements of each row; shown is the median', count, 5)
  .option('--seconds <S>', 'length of each measurement', positive, 0.5)
  .option(
    '--only <ROWS>',
    `rows to measure, by comma: ${keys.join(' ')}; with --guest: ${groupKeys.join(' ')}`,
    (text: string) => text.split(',').map((key) => key.trim()),
  )
  .option('--spin', 'look at the rings all the time instead of sleeping until the interrupt', false)
  .option(
    '--think <US>',
    "microseconds between an answer and the next request; default: each row's own",
    positive,
  )
  .addOption(
    new Option('--think-by <HOW>', 'what happens between requests: the front-end computes, or sleeps')
      .choices(['work', 'sleep'])
      .default('work'),
  )
  .option(
    '--cold',
    'measure daemons that have just started: their first thousand operations of each kind',
    false,
  )
  .option(
    '--guest',
    'run programs in a User-Mode Linux guest that has a share of each daemon, and measure their time',
    false,
  )
  .option(
    '--peer <NAME=COMMAND>',
    'with --guest: also measure this daemon, a command of the shell with {socket} and {directory} in it, ' +
      "instead of Debian's; may be repeated",
    (text: string, peers: Subject[]) => [...peers, peerOf(text)],
    [],
  )
  .option(
    '--guests <N>',
    'with --guest: guests that work at the same time, on one process of this program and on one of its peers ' +
      `for each: ${sharedGroupKeys.join(' ')}`,
    count,
    1,
  )
  .option('--amount <SHARE>', 'with --guest: how much is done, as a share of the usual', positive, 1)
  .option('--warm-up <N>', 'with --guest: rounds that are not counted, before the others', countOrNone, 1)
  .option('--json <FILE>', 'write the figures of every round')
  .option('--plot <FILE.svg>', 'draw the result')
  .allowExcessArguments(false)
  .configureHelp({ helpWidth: process.stdout.columns ?? 110 })
  .parse();

interface Values {
  readonly backend: keyof typeof backends;
  readonly virtiofsd?: string;
  readonly directory: string;
  readonly rounds: number;
  readonly seconds: number;
  readonly only?: readonly string[];
  readonly spin: boolean;
  readonly think?: number;
  readonly thinkBy: 'work' | 'sleep';
  readonly cold: boolean;
  readonly guest: boolean;
  readonly peer: readonly Subject[];
  readonly amount: number;
  readonly guests: number;
  readonly warmUp: number;
  readonly json?: string;
  readonly plot?: string;
}

const values = command.opts<Values>();
const backend = backends[values.backend];
const rows = values.spin ? spinningRows : sleepingRows;
const known = !values.guest ? keys : values.guests > 1 ? sharedGroupKeys : groupKeys;
const stray = values.only?.find((key) => !known.includes(key));
if (stray !== undefined) command.error(`error: --only ${stray}: there is no such row`);
const chosen = values.only === undefined ? rows : scenarios.filter(({ key }) => values.only!.includes(key));
if (values.virtiofsd !== undefined && !existsSync(values.virtiofsd))
  command.error(`error: --virtiofsd ${values.virtiofsd}: there is none`);
if (!existsSync(values.directory)) command.error(`error: --directory ${values.directory}: there is none`);

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value <= 3600)) throw new InvalidArgumentError('It must be above 0, and at most 3600.');
  return value;
}

function count(text: string): number {
  const value = positive(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError('It must be a whole number.');
  return value;
}

function countOrNone(text: string): number {
  return text === '0' ? 0 : count(text);
}

function peerOf(text: string): Subject {
  const [, name, words] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
  if (name === undefined || words === undefined || !words.includes('{socket}'))
    throw new InvalidArgumentError('It must be a name, = and a command with {socket} in it.');
  const command = (directory: string, socket: string): string[] => {
    // The words stand in the shell's environment, so that they need no quoting.
    const line = words.replaceAll('{socket}', '"$SOCKET"').replaceAll('{directory}', '"$DIRECTORY"');
    return ['/usr/bin/env', `SOCKET=${socket}`, `DIRECTORY=${directory}`, '/bin/sh', '-c', `exec ${line}`];
  };
  return { name, daemon: { command } };
}

const scratch = mkdtempSync(join(values.directory, 'virtiofs-kit-bench-'));
const directory = join(scratch, 'shared');
mkdirSync(directory);

/** This program with the chosen backend. */
const own: Pick<Daemon, 'command'> = {
  command(served, socket) {
    const config = join(scratch, 'config.yaml');
    writeFileSync(
      config,
      stringify({ exports: [{ tag: 'bench', socket, requestQueues: 2, backend: backend(served) }] }),
    );
    const [node, program] = ours.command(served, socket);
    return [node!, program!, 'serve', '--config', config, '--log-level', 'warn'];
  },
};

// A comparison that is stopped leaves neither daemons nor a guest behind.
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, () => process.exit(code));

const subjects: Subject[] = [{ name: `virtiofs-kit ${values.backend}`, daemon: own, servesMany: true }];
if (values.virtiofsd !== undefined) {
  const daemon = rustVirtiofsd(values.virtiofsd);
  subjects.push({ name: daemon.name, daemon });
}
subjects.push(...values.peer);
if (values.peer.length > 0) {
  // Only what was asked for.
} else if (cVirtiofsd.missing === undefined) subjects.push({ name: cVirtiofsd.name, daemon: cVirtiofsd });
else process.stderr.write(`without ${cVirtiofsd.name}: ${cVirtiofsd.missing}\n`);

function onProgress(text: string): void {
  process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${text}` : `${text}\n`);
}

try {
  if (values.guest) {
    const { rounds, warmUp, only, amount, guests } = values;
    const results = await compareInGuest(subjects, {
      amount: shareOf(amount),
      only,
      rounds,
      warmUp,
      guests,
      scratch,
      onProgress,
    });
    process.stdout.write(`\n${guestTable(subjects, results)}`);
    const json = { subjects: subjects.map(({ name }) => name), results };
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(json, null, 2)}\n`);
  } else if (values.cold) {
    const { table, json } = await compareColdStarts(subjects, {
      scratch,
      directory,
      rounds: values.rounds,
      onProgress,
    });
    process.stdout.write(`\n${table}`);
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(json, null, 2)}\n`);
  } else await compareRows();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

async function compareRows(): Promise<void> {
  const daemons = subjects.map(({ daemon }, i) => launch(daemon, directory, join(scratch, `socket${i}`)));
  try {
    for (const daemon of daemons) await whenListening(daemon);
    const targets = daemons.map(({ socket, process: { pid } }, i) => ({
      name: subjects[i]!.name,
      socket,
      pid,
    }));
    const result = await runBench(targets, chosen, {
      rounds: values.rounds,
      seconds: values.seconds,
      wait: values.spin ? 'spin' : 'sleep',
      thinkBy: values.thinkBy,
      thinkTimeUs: values.think,
      onProgress,
    });
    process.stdout.write(`\n${toTable(result)}`);
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(toJson(result), null, 2)}\n`);
    if (values.plot !== undefined) writeFileSync(values.plot, plot(result));
  } finally {
    for (const daemon of daemons) await daemon.stop();
  }
}
