import { writeFileSync } from 'node:fs';
import { Option, type Command } from 'commander';
import * as z from 'zod';
import { UsageError } from '../../backend/index.js';
import {
  BenchError,
  plot,
  runBench,
  scenarios,
  sleepingRows,
  spinningRows,
  toJson,
  toTable,
  type Scenario,
  type Target,
} from '../../bench/index.js';
import { check, describeOptions } from '../../plugins/index.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

const benchSchema = z.strictObject({
  socket: z.string().describe("the daemon's vhost-user socket").meta({ placeholder: 'PATH' }),
  pid: z
    .number()
    .int()
    .positive()
    .optional()
    .describe('its process, for CPU time; default: the one that made the socket'),
  name: z.string().default('daemon').describe('its name in the table'),
  compare: z
    .string()
    .optional()
    .describe("another daemon's socket: both are measured in turns")
    .meta({ placeholder: 'PATH' }),
  comparePid: z.number().int().positive().optional().describe("the other one's process"),
  compareName: z.string().default('other').describe("the other one's name"),
  rounds: z
    .number()
    .int()
    .min(1)
    .max(1000)
    .default(1)
    .describe('measurements of each row; shown is the median'),
  seconds: z.number().positive().max(3600).default(0.5).describe('length of each measurement'),
  spin: z
    .boolean()
    .default(false)
    .describe('look at the rings all the time, as no guest does, instead of sleeping until the interrupt'),
  think: z
    .number()
    .min(0)
    .max(1e6)
    .optional()
    .describe("microseconds between an answer and the next request; default: each row's own"),
  plot: z.string().optional().describe('draw the result').meta({ placeholder: 'FILE.svg' }),
  json: z.boolean().default(false).describe('print JSON with the figures of every round instead of a table'),
  segment: z
    .number()
    .int()
    .min(512)
    .default(4096)
    .describe('bytes of data in one segment, as the page size of a guest'),
});

const BENCH_FLAGS = describeOptions(benchSchema);

/** `bench`: measures daemons without a guest. */
export function addBench(program: Command): void {
  const command = program
    .command('bench')
    .description('measure a virtio-fs daemon, this one or another, without a guest')
    .optionsGroup('Measurement:');
  for (const option of BENCH_FLAGS) addFlag(command, option);
  command
    .option(
      '--only <ROWS>',
      `rows to measure, by comma: ${keysOf(sleepingRows)}; with --spin ${keysOf(spinningRows)}`,
    )
    .addOption(
      new Option('--think-by <HOW>', 'what happens between requests: the front-end computes, or sleeps')
        .choices(['work', 'sleep'])
        .default('work'),
    )
    .addHelpText('after', EXAMPLES)
    .action(measure);
}

async function measure(values: Values): Promise<void> {
  const options = check(benchSchema, givenOptions(BENCH_FLAGS, values), '', ([name]) => {
    return `--${BENCH_FLAGS.find((option) => option.name === name)?.flag ?? String(name)}`;
  });
  const targets: Target[] = [{ name: options.name, socket: options.socket, pid: options.pid }];
  if (options.compare !== undefined) {
    targets.push({ name: options.compareName, socket: options.compare, pid: options.comparePid });
  }
  const chosen = choose(values['only'] as string | undefined, options.spin ? spinningRows : sleepingRows);
  try {
    const result = await runBench(targets, chosen, {
      rounds: options.rounds,
      seconds: options.seconds,
      segmentBytes: options.segment,
      wait: options.spin ? 'spin' : 'sleep',
      thinkBy: values['thinkBy'] === 'sleep' ? 'sleep' : 'work',
      thinkTimeUs: options.think,
      ...(process.stderr.isTTY ? { onProgress: showProgress } : {}),
    });
    if (process.stderr.isTTY) showProgress('');
    process.stdout.write(options.json ? `${JSON.stringify(toJson(result), null, 2)}\n` : toTable(result));
    if (options.plot !== undefined) writeFileSync(options.plot, plot(result));
  } catch (error) {
    if (error instanceof BenchError || error instanceof RangeError) throw new UsageError(error.message);
    throw error;
  }
}

function keysOf(rows: readonly Scenario[]): string {
  return rows.map(({ key }) => key).join(' ');
}

function choose(only: string | undefined, rows: readonly Scenario[]): readonly Scenario[] {
  if (only === undefined) return rows;
  return only.split(',').map((key) => {
    const scenario = scenarios.find((one) => one.key === key.trim());
    if (scenario === undefined)
      throw new UsageError(`--only ${key}: no such row; rows are ${keysOf(scenarios)}`);
    return scenario;
  });
}

function showProgress(text: string): void {
  process.stderr.write(`\r\u001b[K${text}`);
}

const EXAMPLES = `
Each row is driven over the rings by this process, which sleeps until the daemon interrupts, as a guest does. With
--spin it keeps one processor busy, and the daemon needs another one.

Examples:
  virtiofs-kit bench --socket /run/scratch.sock
  virtiofs-kit bench --socket /run/ours.sock --compare /run/virtiofsd.sock --rounds 5 --plot result.svg
`;
