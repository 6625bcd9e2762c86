import type { Command } from 'commander';
import { readOnly } from '../../backend/index.js';
import { cases, type CaseResult, checkBackend } from '../../contract/index.js';
import { type BackendRegistry, Services } from '../../plugins/index.js';
import type { BackendOptions } from '../backend-options.js';
import { addLogOptions, servicesOf } from '../log-and-services.js';
import type { Values } from '../flags.js';

/** `check-backend`: runs the contract's test suite on a backend. */
export function addCheckBackend(program: Command, registry: BackendRegistry, backend: BackendOptions): void {
  const command = program
    .command('check-backend')
    .description('test a backend against the contract, rule by rule')
    .optionsGroup('Check:')
    .option('--only <WORDS>', 'only rules whose sentence has these words')
    .option('--list', 'list the rules, and the methods that each needs')
    .option('--verbose', 'show the rules that hold, too');
  backend.addTo(command);
  addLogOptions(command);
  command.addHelpText('after', HELP).action(async (values: Values) => {
    if (values['list'] === true) process.stdout.write(list());
    else await check(values, registry, backend);
  });
}

async function check(values: Values, registry: BackendRegistry, backend: BackendOptions): Promise<void> {
  const { spec, settings } = backend.choice(values);
  const log = servicesOf(values, { level: 'warn' }, registry).get(Services.Logger);
  const words = values['only'];
  const report = await checkBackend({
    create: async () => {
      const made = await registry.create(spec, { log, optionName: backend.name });
      return settings.readOnly ? readOnly(made) : made;
    },
    cache: settings.cache,
    limits: settings.limits,
    log,
    only: (name) => typeof words !== 'string' || name.includes(words),
    onResult: (result) => {
      if (result.outcome === 'failed' || values['verbose'] === true) process.stdout.write(describe(result));
    },
  });
  const { passed, failed, skipped } = report;
  process.stdout.write(`${passed} passed, ${failed} failed, ${skipped} skipped\n`);
  if (failed > 0) process.exitCode = 1;
}

const LABELS = { passed: 'ok    ', failed: 'FAILED', skipped: 'skip  ' } as const;

function describe({ name, outcome, reason, error }: CaseResult): string {
  const stack = error instanceof Error && error.stack !== undefined ? `\n${error.stack}` : '';
  const why = reason === undefined ? '' : `\n${stack === '' ? reason : stack.trimStart()}`;
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

Examples:
  virtiofs-kit check-backend --backend memfs
  virtiofs-kit check-backend --backend ./my-backend.js --verbose
  virtiofs-kit check-backend --backend ./my-backend.js --only rename
`;
