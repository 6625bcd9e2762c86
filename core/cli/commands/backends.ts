import type { Command } from 'commander';
import {
  describeOptions,
  toYaml,
  type BackendRegistry,
  type OptionDescription,
} from '../../plugins/index.js';

/** `backends`: lists the kinds of backends, or the options of one. */
export function addBackends(program: Command, registry: BackendRegistry): void {
  program
    .command('backends')
    .description('list the backends, or the options of one')
    .argument('[NAME]', 'a name from the list, an npm package, or ./a/module.js')
    .action(async (name: string | undefined) => {
      process.stdout.write(name === undefined ? await list(registry) : await options(registry, name));
    });
}

async function list(registry: BackendRegistry): Promise<string> {
  const plugins = await Promise.all(registry.names.map((name) => registry.load(name)));
  const rows = plugins.map(({ name, description }) => [name, description] as const);
  return `${table(rows)}\nOptions of one: virtiofs-kit backends NAME\n`;
}

async function options(registry: BackendRegistry, name: string): Promise<string> {
  const plugin = await registry.load(name);
  const described = describeOptions(plugin.options);
  const rows = described.map((option) => [flag(option), text(option)] as const);
  const example = Object.fromEntries(
    described.filter(({ required }) => required).map((option) => [option.name, option.placeholder ?? true]),
  );
  const file = toYaml({ backend: { type: name, ...example } })
    .replaceAll(/^/gm, '  ')
    .trimEnd();
  return `${plugin.name}: ${plugin.description}\n\n${table(rows)}\nIn a configuration file, options are written so (sharedDir for --shared-dir):\n${file}\n`;
}

function flag(option: OptionDescription): string {
  if (option.placeholder !== undefined) return `--${option.flag} <${option.placeholder}>`;
  return option.initial === 'true' ? `--no-${option.flag}` : `--${option.flag}`;
}

function text(option: OptionDescription): string {
  const notes = [
    option.required ? 'required' : '',
    option.initial === undefined ? '' : `default ${option.initial}`,
    option.repeatable ? 'repeatable' : '',
  ];
  return [option.description, ...notes].filter((note) => note !== '').join('; ');
}

/** Formats two columns. The second one is wrapped. */
function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.min(36, Math.max(0, ...rows.map(([left]) => left.length)));
  const room = Math.max(40, (process.stdout.columns ?? 100) - width - 4);
  return rows
    .flatMap(([left, right]) => {
      const [first = '', ...rest] = wrap(right, room);
      const head =
        left.length > width
          ? [`  ${left}`, `  ${''.padEnd(width)}  ${first}`]
          : [`  ${left.padEnd(width)}  ${first}`];
      return [...head, ...rest.map((line) => `  ${''.padEnd(width)}  ${line}`)];
    })
    .map((line) => `${line}\n`)
    .join('');
}

function wrap(line: string, room: number): string[] {
  const lines: string[] = [];
  let rest = line;
  while (rest.length > room) {
    const space = rest.lastIndexOf(' ', room);
    const cut = space <= 0 ? room : space;
    lines.push(rest.slice(0, cut));
    rest = rest.slice(cut).trimStart();
  }
  return [...lines, rest];
}
