import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import { keeperDescriptor } from '../../keeper/inherited.js';
import { isBackend } from '../../plugins/backend-source.js';
import {
  exportSchema,
  readConfig,
  type AccessLogConfig,
  type ConfineConfig,
  type LogConfig,
  type ReadConfig,
} from '../../plugins/options/config-schema.js';
import type { DaemonOptions } from '../../plugins/index.js';
import { check, describeOptions } from '../../plugins/options/option-descriptions.js';
import type { BackendRegistry } from '../../plugins/registry.js';
import { suggestion } from '../../plugins/options/suggestion.js';
import { toYaml } from '../../plugins/options/yaml.js';
import { serviceManager } from '../serving/systemd-notices.js';
import { endWithParent, isIsolated, ISOLATED, partOf } from '../serving/isolated-exports.js';
import type { BackendOptions } from '../backend-options.js';
import { accessLogOf, addAccessLogOptions } from '../serving/access-log-flags.js';
import { addConfinementOptions, confinementFrom, confinementOf } from '../serving/confinement-flags.js';
import { addFlag, givenOptions, textOf, type Values } from '../flags.js';
import { addLogOptions, logConfigOf } from '../serving/log-and-services.js';
import type { Plan } from '../serving/plan.js';
import { start } from '../serving/start.js';

/** What `serve` serves, from flags or from a file. */
interface ServeRequest extends Omit<DaemonOptions, 'log' | 'registry'> {
  readonly logConfig: Partial<LogConfig>;
  readonly confineConfig: Partial<ConfineConfig>;
  readonly keep: boolean;
  readonly metrics?: string | undefined;
  readonly accessLog?: AccessLogConfig | undefined;
  readonly file?: ReadConfig | undefined;
}

const flagsSchema = exportSchema
  .omit({
    backend: true,
    readOnly: true,
    watch: true,
    locks: true,
    isolate: true,
    cache: true,
    limits: true,
    rate: true,
  })
  .partial();

/** Flags of one export, from the configuration schema. */
const EXPORT_FLAGS = describeOptions(exportSchema)
  .filter(
    ({ name }) =>
      !['backend', 'readOnly', 'watch', 'locks', 'isolate', 'cache', 'limits', 'rate'].includes(name),
  )
  .map((option) =>
    option.name === 'socket' ? { ...option, flag: 'socket-path', placeholder: 'PATH' } : option,
  );

/** `serve`: serves exports over vhost-user sockets until a signal. */
export function addServe(program: Command, registry: BackendRegistry, backend: BackendOptions): void {
  const command = program
    .command('serve')
    .description('serve file systems over vhost-user sockets, for QEMU and other virtual machine monitors')
    .optionsGroup('Export:');
  for (const option of EXPORT_FLAGS) addFlag(command, option);
  backend.addTo(command);
  addLogOptions(command);
  addAccessLogOptions(command);
  addConfinementOptions(command, 'Confinement:');
  command
    .optionsGroup('Configuration:')
    .option('--config <FILE>', 'take exports and backends from a YAML file instead of flags')
    .option(
      '--control <PATH>',
      'listen there for commands: status, top, trace, doctor, those of backends, such as memfs fork, and reload, with --config and without --keep',
    )
    .option(
      '--metrics <ADDRESS>',
      'serve figures to Prometheus there: PORT or ADDRESS:PORT on loopback, or unix:PATH',
    )
    .option(
      '--keep',
      'have a keeper hold the guests, so that virtiofs-kit upgrade can replace the engine under them',
    )
    .addOption(new Option(`--${ISOLATED} <NUMBERS>`).hideHelp())
    .option('--print-config', 'check everything, print it as a configuration file, and end')
    .addHelpText('after', EXAMPLES)
    .action((values: Values) => serve(values, registry, backend));
}

async function serve(values: Values, registry: BackendRegistry, backend: BackendOptions): Promise<void> {
  const { isolatedExports } = values;
  const whole =
    typeof values['config'] === 'string' ? fromFile(values['config'], values) : fromFlags(values, backend);
  const served = typeof isolatedExports === 'string' ? partOf(whole, isolatedExports) : whole;
  await checkBackends(served, registry);
  const confinement = confinementFrom(values, served.confineConfig);
  const isKept = served.keep || values['keep'] === true;
  // The process that has started this one shows it with the others.
  const metrics = typeof isolatedExports === 'string' ? undefined : (values['metrics'] ?? served.metrics);
  const accessLog = accessLogOf(values, served.accessLog);
  if (values['printConfig'] === true) {
    const exports = served.exports.map((one) => ({ ...one, optionName: undefined }));
    const kept = isKept ? { keep: true } : {};
    const shown = {
      ...(metrics === undefined ? {} : { metrics }),
      ...(accessLog === undefined ? {} : { accessLog }),
    };
    process.stdout.write(
      toYaml({ confine: confinement, ...kept, ...shown, backends: served.backends, exports }),
    );
    return;
  }
  const logConfig = logConfigOf(values, served.logConfig);
  const isEngine = keeperDescriptor() !== undefined;
  if (served.exports.some(isIsolated)) {
    const [{ isolate }, { createLogger }] = await Promise.all([
      import('../serving/isolate.js'),
      import('../../plugins/logger.js'),
    ]);
    const listener =
      typeof metrics === 'string'
        ? await (await import('../serving/metrics.js')).openMetrics(metrics)
        : undefined;
    const listeners = { metrics: listener, control: textOf(values['control']) };
    const manager = await serviceManager(logConfig);
    return isolate(served.exports, { isKept, manager, listeners, log: createLogger(logConfig) });
  }
  const endsWithParent = typeof isolatedExports === 'string' && !isEngine;
  const control = textOf(values['control']);
  if (!isEngine && isKept) {
    const [{ keep }, { createLogger }] = await Promise.all([
      import('../serving/keep.js'),
      import('../../plugins/logger.js'),
    ]);
    const log = createLogger(logConfig);
    if (endsWithParent) endWithParent();
    await keep(served.exports, { metrics: textOf(metrics), control }, await serviceManager(logConfig), log);
    return;
  }
  const { file } = served;
  const wanted = confinementOf(confinement, values);
  const own = isolatedExports === undefined ? file : undefined;
  const started = own && {
    file: resolve(textOf(values['config'])!),
    config: own,
    isConfined: wanted.layers.length > 0,
  };
  const plan = {
    options: optionsOf(served),
    logConfig,
    // An engine is its keeper's affair.
    notifies: !isEngine,
    endsWithParent,
    metrics: textOf(metrics),
    accessLog,
    control,
    started,
    takesHangup: own !== undefined && !isEngine,
  };
  await start(plan, wanted, registry);
}

/** What a daemon takes of a request. */
function optionsOf({ exports, backends, folder }: ServeRequest): Plan['options'] {
  return { exports, backends, folder };
}

function fromFile(path: string, values: Values): ServeRequest {
  const stray = [...EXPORT_FLAGS.map(({ flag }) => flag), 'backend', 'read-only', 'watch', 'locks'].find(
    (flag) => values[flag.replaceAll(/-[a-z]/g, (part) => part.slice(1).toUpperCase())] !== undefined,
  );
  if (stray !== undefined)
    throw new UsageError(`--${stray}: not together with --config; write it into ${path}`);
  const file = readConfig(path);
  const { log, confine: confineConfig, ...config } = file;
  return { ...config, logConfig: log, confineConfig, file };
}

function fromFlags(values: Values, backend: BackendOptions): ServeRequest {
  const { spec, settings } = backend.choice(values);
  const given = check(flagsSchema, givenOptions(EXPORT_FLAGS, values), '', ([name]) => {
    return `--${EXPORT_FLAGS.find((option) => option.name === name)?.flag ?? String(name)}`;
  });
  const { socket, fd, fdName } = given;
  const ways = [socket, fd, fdName].filter((way) => way !== undefined).length;
  if (ways === 0) throw new UsageError('--socket-path is required');
  if (ways > 1) throw new UsageError('--socket-path, --fd and --fd-name: give one of them');
  return {
    exports: [{ ...given, ...settings, isolate: 'none', backend: spec, optionName: backend.name }],
    logConfig: {},
    confineConfig: {},
    keep: false,
  };
}

async function checkBackends(
  { exports, backends, folder }: ServeRequest,
  registry: BackendRegistry,
): Promise<void> {
  const named = Object.values(backends ?? {}).map((backend) => ({ backend, optionName: undefined }));
  for (const { backend, optionName } of [...named, ...exports]) {
    if (typeof backend === 'string') {
      if (!Object.hasOwn(backends ?? {}, backend))
        throw new UsageError(
          `backend ${backend}: no such name under backends${suggestion(backend, Object.keys(backends ?? {}))}`,
        );
    } else if (!isBackend(backend)) {
      await registry.check(backend, { folder, optionName });
    }
  }
}

const EXAMPLES = `
Examples:
  Memory, for a guest that mounts the tag scratch:
    virtiofs-kit serve --socket-path /run/scratch.sock --tag scratch --backend memfs --size 2g
  A host directory that guests can't change:
    virtiofs-kit serve --socket-path /run/www.sock --backend passthrough --shared-dir /srv/www --read-only
  Everything that a file says:
    virtiofs-kit serve --config /etc/virtiofs-kit.yaml

QEMU (the socket must be there first; the guest's memory must be shared):
  qemu-system-x86_64 … -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on -numa node,memdev=mem
    -chardev socket,id=c,path=/run/scratch.sock -device vhost-user-fs-pci,chardev=c,tag=scratch
In the guest:
  mount -t virtiofs scratch /mnt

The options of a backend: virtiofs-kit backends NAME, or virtiofs-kit serve --backend NAME --help
`;
