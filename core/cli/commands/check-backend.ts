import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';
import { type Command, Option } from 'commander';
import * as z from 'zod';
import { readOnly, UsageError } from '../../backend/index.js';
import { cases, type CaseResult, checkBackend, type CheckOptions } from '../../contract/index.js';
import { type BackendRegistry, check, Services } from '../../plugins/index.js';
import type { BackendOptions } from '../backend-options.js';
import { addLogOptions, servicesOf } from '../serving/log-and-services.js';
import type { Values } from '../flags.js';

/** `check-backend`: runs the contract's test suite on a backend. */
export function addCheckBackend(program: Command, registry: BackendRegistry, backend: BackendOptions): void {
  const command = program
    .command('check-backend')
    .description('test a backend against the contract, rule by rule')
    .optionsGroup('Check:');
  for (const { name, value, text, repeatable } of OPTIONS) {
    const option = new Option(`--${flagOf(name, backend)}${value === undefined ? '' : ` <${value}>`}`, text);
    command.addOption(repeatable === true ? option.argParser(collect) : option);
  }
  backend.addTo(command);
  addLogOptions(command, 'warn');
  command.addHelpText('after', HELP).action(async (values: Values) => {
    const given = Object.fromEntries(
      OPTIONS.map(({ name }) => [name, values[new Option(`--${flagOf(name, backend)}`).attributeName()]]),
    );
    if (given['list'] === true) process.stdout.write(list());
    else await run(given, values, registry, backend);
  });
}

/** The command's own options. */
const OPTIONS: readonly {
  readonly name: string;
  readonly value?: string;
  readonly text: string;
  readonly repeatable?: boolean;
}[] = [
  { name: 'only', value: 'WORDS', text: 'only rules whose sentence has these words' },
  {
    name: 'directory',
    value: 'PATH',
    text: 'directory of the backend in which files are made; default: its root',
  },
  {
    name: 'name-pattern',
    value: 'PATTERN',
    text: 'what files are called where not every name is taken, such as *.json',
  },
  {
    name: 'content',
    value: 'FILE',
    text: 'content that the backend takes for a file, where it does not take every content',
  },
  { name: 'except', value: 'WORDS', text: 'rules with these words may fail; repeatable', repeatable: true },
  {
    name: 'timeout',
    value: 'SECONDS',
    text: 'most time for each rule, and for what comes after it; default 60',
  },
  { name: 'seed', value: 'NUMBER', text: 'chooses the random sequences of operations; default 1' },
  { name: 'list', text: 'list the rules, and the methods that each needs' },
  { name: 'verbose', text: 'show the rules that hold, too' },
];

/** An option's flag: a longer one where the backend has an option of that name. */
function flagOf(name: string, backend: BackendOptions): string {
  return backend.has(name) ? `check-${name}` : name;
}

async function run(
  given: Values,
  values: Values,
  registry: BackendRegistry,
  backend: BackendOptions,
): Promise<void> {
  const { spec, settings } = backend.choice(values);
  const log = (await servicesOf(values, { level: 'warn' }, registry)).get(Services.Logger);
  const words = given['only'];
  const aim = aimOf(given, (name) => `--${flagOf(name, backend)}`);
  const report = await checkBackend({
    create: async () => {
      const made = await registry.create(spec, { log, optionName: backend.name });
      return settings.readOnly ? readOnly(made) : made;
    },
    cache: settings.cache,
    limits: settings.limits,
    log,
    ...aim,
    only: (name) => typeof words !== 'string' || name.includes(words),
    onResult: (result) => {
      if (result.outcome === 'failed' || given['verbose'] === true) process.stdout.write(describe(result));
    },
  });
  const { passed, failed, skipped } = report;
  process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
  if (failed > 0) process.exitCode = 1;
}

/** A repeated option's values. */
function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

const aimSchema = z.strictObject({
  directory: z.string().optional(),
  'name-pattern': z
    .string()
    .regex(/^[^*]*\*[^*]*$/, 'has one *, such as *.json')
    .optional(),
  content: z.string().optional(),
  except: z.array(z.string().min(1)).default([]),
  timeout: z.coerce.number().positive().max(86_400).default(60),
  seed: z.coerce
    .number()
    .int()
    .min(0)
    .max(2 ** 31)
    .default(1),
});

type Aim = Pick<CheckOptions, 'directory' | 'namePattern' | 'content' | 'except' | 'timeoutMs' | 'seed'>;

/** What the options say of how the backend is to be tested. */
function aimOf(given: Values, flag: (name: string) => string): Aim {
  const wanted = Object.keys(aimSchema.shape).map((name) => [name, given[name]]);
  const aim = check(aimSchema, Object.fromEntries(wanted), '', ([name]) => flag(String(name)));
  const { directory, 'name-pattern': namePattern, content, except, timeout, seed } = aim;
  for (const words of except) {
    if (!cases.some(({ name }) => name.includes(words)))
      throw new UsageError(`${flag('except')} ${words}: no rule has these words; --list shows them`);
  }
  return {
    ...(directory === undefined ? {} : { directory }),
    ...(namePattern === undefined ? {} : { namePattern }),
    ...(content === undefined ? {} : { content: readContent(content, flag('content')) }),
    except: (name) => except.some((words) => name.includes(words)),
    timeoutMs: timeout * 1000,
    seed,
  };
}

function readContent(file: string, flag: string): Uint8Array {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new UsageError(`${flag} ${file}: ${(error as Error).message}`, { cause: error });
  }
}

const LABELS = { passed: 'ok    ', failed: 'FAILED', skipped: 'skip  ' } as const;

function describe({ name, outcome, reason, error, causes = [] }: CaseResult): string {
  const stack = error instanceof Error && error.stack !== undefined ? `\n${error.stack}` : '';
  const because = causes.map((cause) => `\ncause: ${inspect(cause)}`).join('');
  const why = reason === undefined ? '' : `\n${stack === '' ? reason : stack.trimStart()}${because}`;
  return `${LABELS[outcome]} ${name}${why.replaceAll('\n', '\n         ')}\n`;
}

function list(): string {
  return cases
    .map(({ name, needs }) => {
      const methods = needs.map((need) => [need].flat().join(' or ')).join(', ');
      return `${name}\n         ${methods || 'any backend'}\n`;
    })
    .join('');
}

const HELP = `
A backend that can make directories is tested in a new one in its root, which is removed afterwards; one that cannot
change anything is walked through. Rules that need a method which the backend does not have are skipped.
What the backend throws that is no FsError is shown with the rule that fails by it.

Examples:
  virtiofs-kit check-backend --backend memfs
  virtiofs-kit check-backend --backend ./my-backend.js --verbose
  virtiofs-kit check-backend --backend ./my-backend.js --only rename
  virtiofs-kit check-backend --backend ./records.js --directory users --name-pattern '*.json' --content user.json \\
      --except 'names keep every byte' --timeout 5
`;
