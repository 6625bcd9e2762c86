import { writeFileSync } from 'node:fs';
import { Option, type Command } from 'commander';
import { z } from 'zod';
import { UsageError } from '../../backend/index.js';
import { BenchError, plot, runBench, scenarios, toJson, toTable, type Target } from '../../bench/index.js';
import { check, describeOptions } from '../../plugins/index.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

const keys = scenarios.map(({ key }) => key);

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
    .addOption(new Option('--only <ROWS>', `rows to measure, by comma: ${keys.join(' ')}`))
    .addOption(
      new Option('--wait <HOW>', 'for answers: spin on the ring, or sleep on its eventfd')
        .choices(['spin', 'sleep'])
        .default('spin'),
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
  const chosen = choose(values['only'] as string | undefined);
  try {
    const result = await runBench(targets, chosen, {
      rounds: options.rounds,
      seconds: options.seconds,
      segment: options.segment,
      wait: values['wait'] === 'sleep' ? 'sleep' : 'spin',
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

function choose(only: string | undefined) {
  if (only === undefined) return scenarios;
  return only.split(',').map((key) => {
    const scenario = scenarios.find((one) => one.key === key.trim());
    if (scenario === undefined)
      throw new UsageError(`--only ${key}: no such row; rows are ${keys.join(' ')}`);
    return scenario;
  });
}

function showProgress(text: string): void {
  process.stderr.write(`\r\u001b[K${text}`);
}

const EXAMPLES = `
Each row is driven over the rings by this process, which keeps one processor busy; the daemon needs another one.

Examples:
  virtiofs-kit bench --socket /run/scratch.sock
  virtiofs-kit bench --socket /run/ours.sock --compare /run/virtiofsd.sock --rounds 5 --plot result.svg
`;
