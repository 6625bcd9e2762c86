import type { Command } from 'commander';
import { ControlSocket, MountedExport, Services } from '../../plugins/index.js';
import { accessLogOf, addAccessLogOptions } from '../serving/access-log-flags.js';
import { openAccessLogTarget } from '../serving/access-log-target.js';
import type { BackendOptions } from '../backend-options.js';
import { addLogOptions, logConfigOf, servicesOf } from '../serving/log-and-services.js';
import type { Values } from '../flags.js';
import { openMetrics } from '../serving/metrics.js';
import { serviceManager } from '../serving/systemd-notices.js';
import { goOnInBackground, isInBackground, openBackgroundLog, tellReady } from '../serving/background.js';
import { aborted, stopSignal, surviveRejections } from '../serving/signals.js';

/** `mount`: serves a backend to this host itself until a signal or an unmount. */
export function addMount(program: Command, backend: BackendOptions): void {
  const command = program
    .command('mount')
    .description('mount a backend on this host, without a virtual machine, until a signal or umount')
    .argument('<DIR>', 'where to mount: a directory that exists')
    .optionsGroup('Mount:')
    .option('--allow-other', 'other users may use it too; the default for root')
    .option('--daemon', 'return when it is mounted, and serve on in the background')
    .option(
      '--kernel-io',
      'the kernel reads and writes files of passthrough itself (Linux 6.9 or later, as root); figures and logs do not have it then',
    );
  backend.addTo(command);
  addLogOptions(command);
  command.option(
    '--log-file <FILE>',
    'where the log of --daemon goes; default: one below /var/log or the state of the user',
  );
  addAccessLogOptions(command);
  command
    .optionsGroup('To see:')
    .option('--control <PATH>', 'listen there for status, top, trace, and commands of the backend')
    .option(
      '--metrics <ADDRESS>',
      'serve figures to Prometheus there: PORT or ADDRESS:PORT on loopback, or unix:PATH',
    );
  command
    .addHelpText('after', EXAMPLES)
    .action((directory: string, values: Values) => mount(directory, values, backend));
}

async function mount(directory: string, values: Values, backend: BackendOptions): Promise<void> {
  const { spec, settings } = backend.choice(values);
  const { daemon, logFile } = values;
  if (daemon === true && !isInBackground()) {
    return goOnInBackground(openBackgroundLog(typeof logFile === 'string' ? logFile : undefined, directory));
  }
  const accessLog = accessLogOf(values, undefined);
  const { control, metrics } = values;
  const stop = stopSignal();
  const target = accessLog && (await openAccessLogTarget(accessLog));
  const listener = typeof metrics === 'string' ? await openMetrics(metrics) : undefined;
  const container = await servicesOf(values, {}, backend.registry);
  const log = container.get(Services.Logger);
  surviveRejections(log);
  const manager = await serviceManager(logConfigOf(values, {}));
  const mounted = await MountedExport.open({
    ...settings,
    directory,
    backend: spec,
    kernelIo: values['kernelIo'] === true,
    allowOther: values['allowOther'] === true ? true : undefined,
    optionName: backend.name,
    registry: container.get(Services.Registry),
    log,
  });
  try {
    const requests = await target?.begin(mounted.tracing);
    const commands =
      typeof control === 'string'
        ? await ControlSocket.listen(control, mounted, backend.registry, log)
        : undefined;
    const monitoring = await listener?.serve(() => mounted.figures(), log);
    log.info({ directory: mounted.directory, backend: spec.type }, 'mounted');
    manager?.ready(`mounted at ${mounted.directory}`);
    tellReady();
    await Promise.race([aborted(stop), mounted.ended]);
    manager?.stopping();
    log.info({}, stop.aborted ? 'unmounting' : 'unmounted by somebody else');
    await monitoring?.close();
    await commands?.close();
    await mounted.close();
    requests?.close();
  } finally {
    await mounted.close();
    manager?.close();
  }
}

const EXAMPLES = `
Examples:
  virtiofs-kit mount /mnt --backend memfs
  virtiofs-kit mount ~/bucket --backend s3 --bucket my-data --read-only
  virtiofs-kit mount /mnt --backend ./my-backend.js --log-level debug
  virtiofs-kit mount /mnt --backend memfs --daemon && touch /mnt/file

In /etc/fstab, where /sbin/mount.virtiofs-kit is a link to the program of that name:
  virtiofs-kit:s3  /mnt/data  virtiofs-kit  bucket=my-data,prefix=x,_netdev,nofail  0 0

Root mounts by itself; other users need fusermount3: apt-get install fuse3
`;
