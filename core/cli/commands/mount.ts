import type { Command } from 'commander';
import { MountedExport, Services } from '../../plugins/index.js';
import type { BackendOptions } from '../backend-options.js';
import { addLogOptions, logConfigOf, servicesOf } from '../log-and-services.js';
import type { Values } from '../flags.js';
import { serviceManager } from '../service-manager.js';
import { aborted, stopSignal, surviveRejections } from '../signals.js';

/** `mount`: serves a backend to this host itself until a signal or an unmount. */
export function addMount(program: Command, backend: BackendOptions): void {
  const command = program
    .command('mount')
    .description('mount a backend on this host, without a virtual machine, until a signal or umount')
    .argument('<DIR>', 'where to mount: a directory that exists')
    .optionsGroup('Mount:')
    .option('--allow-other', 'other users may use it too; the default for root');
  backend.addTo(command);
  addLogOptions(command);
  command
    .addHelpText('after', EXAMPLES)
    .action((directory: string, values: Values) => mount(directory, values, backend));
}

async function mount(directory: string, values: Values, backend: BackendOptions): Promise<void> {
  const { spec, settings } = backend.choice(values);
  const stop = stopSignal();
  const container = await servicesOf(values, {}, backend.registry);
  const log = container.get(Services.Logger);
  surviveRejections(log);
  const manager = await serviceManager(logConfigOf(values, {}));
  const mounted = await MountedExport.open({
    ...settings,
    directory,
    backend: spec,
    allowOther: values['allowOther'] === true ? true : undefined,
    optionName: backend.name,
    registry: container.get(Services.Registry),
    log,
  });
  log.info({ directory: mounted.directory, backend: spec.type }, 'mounted');
  manager?.ready(`mounted at ${mounted.directory}`);
  await Promise.race([aborted(stop), mounted.ended]);
  manager?.stopping();
  log.info({}, stop.aborted ? 'unmounting' : 'unmounted by somebody else');
  await mounted.close();
  manager?.close();
}

const EXAMPLES = `
Examples:
  virtiofs-kit mount /mnt --backend memfs
  virtiofs-kit mount ~/bucket --backend s3 --bucket my-data --read-only
  virtiofs-kit mount /mnt --backend ./my-backend.js --log-level debug

Root mounts by itself; other users need fusermount3: apt-get install fuse3
`;
