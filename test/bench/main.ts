import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import { stringify } from 'yaml';
import { plot, runBench, scenarios, toJson, toTable } from '../../core/bench/index.js';
import {
  cVirtiofsd,
  isListening,
  launch,
  ours,
  type Daemon,
  type RunningDaemon,
} from '../support/daemons.js';

/*
 * Compares this program with the C virtiofsd of Debian's qemu-system-common, in turns, on one
 * directory in memory: `npm run bench -- --help`.
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

const rows = scenarios.map(({ key }) => key);

const command = new Command('npm run bench --')
  .description('Measures this program and the C virtiofsd, in turns, on one directory in memory.')
  .addOption(
    new Option('--backend <NAME>', 'what this program serves')
      .choices(Object.keys(backends))
      .default('passthrough'),
  )
  .option('--rounds <N>', 'measurements of each row; shown is the median', count, 5)
  .option('--seconds <S>', 'length of each measurement', positive, 0.5)
  .option('--only <ROWS>', `rows to measure, by comma: ${rows.join(' ')}`, chooseRows)
  .addOption(
    new Option('--wait <HOW>', 'for answers: spin on the ring, or sleep on its eventfd')
      .choices(['spin', 'sleep'])
      .default('spin'),
  )
  .option('--json <FILE>', 'write the figures of every round')
  .option('--plot <FILE.svg>', 'draw the result')
  .allowExcessArguments(false)
  .configureHelp({ helpWidth: process.stdout.columns ?? 110 })
  .parse();

interface Values {
  readonly backend: keyof typeof backends;
  readonly rounds: number;
  readonly seconds: number;
  readonly only?: readonly string[];
  readonly wait: 'spin' | 'sleep';
  readonly json?: string;
  readonly plot?: string;
}

const values = command.opts<Values>();
const backend = backends[values.backend];
const chosen = scenarios.filter(({ key }) => values.only?.includes(key) ?? true);

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

function chooseRows(text: string): string[] {
  const keys = text.split(',').map((key) => key.trim());
  const stray = keys.find((key) => !rows.includes(key));
  if (stray !== undefined) throw new InvalidArgumentError(`There is no row ${stray}.`);
  return keys;
}

const scratch = mkdtempSync('/dev/shm/virtiofs-kit-bench-');
const directory = join(scratch, 'shared');
mkdirSync(directory);

/** This program with the chosen backend. */
const subject: Pick<Daemon, 'command'> = {
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

const daemons: RunningDaemon[] = [];
try {
  daemons.push(launch(subject, directory, join(scratch, 'ours')));
  if (cVirtiofsd.missing === undefined) daemons.push(launch(cVirtiofsd, directory, join(scratch, 'c')));
  else process.stderr.write(`without ${cVirtiofsd.name}: ${cVirtiofsd.missing}\n`);
  for (const daemon of daemons) while (!isListening(daemon)) await sleep(10);
  const names = [`virtiofs-kit ${values.backend}`, cVirtiofsd.name];
  const targets = daemons.map(({ socket, process: { pid } }, i) => ({ name: names[i]!, socket, pid }));
  const result = await runBench(targets, chosen, {
    rounds: values.rounds,
    seconds: values.seconds,
    wait: values.wait,
    onProgress: (text) => process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${text}` : `${text}\n`),
  });
  process.stdout.write(`\n${toTable(result)}`);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(toJson(result), null, 2)}\n`);
  if (values.plot !== undefined) writeFileSync(values.plot, plot(result));
} finally {
  for (const daemon of daemons) await daemon.stop();
  rmSync(scratch, { recursive: true, force: true });
}
