import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import { keeperDescriptor } from '../../keeper/inherited.js';
import type { BackendOptions } from '../backend-options.js';
import { textOf, type Values } from '../flags.js';
import {
  addConfinementOptions,
  confinementFrom,
  confinementOf,
  hasConfinementFlags,
} from '../serving/confinement-flags.js';
import { goOnInBackground, isInBackground, openBackgroundLog } from '../serving/background.js';
import { addLogOptions, logConfigOf } from '../serving/log-and-services.js';
import { mountOfKeeper } from '../serving/mount-of-keeper.js';
import { accessLogOf, addAccessLogOptions } from '../serving/access-log-flags.js';
import { start } from '../serving/start.js';
import { serviceManager } from '../serving/systemd-notices.js';

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
  command.option(
    '--keep',
    'have a keeper hold the mount, so that it outlives an engine that is killed, and can be upgraded by SIGHUP',
  );
  backend.addTo(command);
  addLogOptions(command);
  command.option(
    '--log-file <FILE>',
    'where the log of --daemon goes; default: one below /var/log or the state of the user',
  );
  addAccessLogOptions(command);
  addConfinementOptions(command, 'Confinement of the engine, with --keep:');
  command
    .optionsGroup('To see:')
    .option(
      '--control <PATH>',
      'listen there for status, top, trace, doctor, commands of the backend, and with --keep upgrade',
    )
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
  const { daemon, logFile, keep } = values;
  if (keep !== true && hasConfinementFlags(values))
    throw new UsageError('--confine and what belongs to it: with --keep only, by which an engine is apart');
  if (daemon === true && !isInBackground()) {
    return goOnInBackground(openBackgroundLog(textOf(logFile), directory));
  }
  if (keep !== true) {
    const { mountHere } = await import('../serving/mount-here.js');
    await mountHere(directory, values, backend);
    return;
  }
  if (values['kernelIo'] === true)
    throw new UsageError(
      '--kernel-io: not with --keep, since an engine that follows does not know these files',
    );
  const accessLog = accessLogOf(values, undefined);
  const logConfig = logConfigOf(values, {});
  const confinement = confinementFrom(values, {});
  const { registry, name: optionName } = backend;
  await registry.check(spec, { optionName });
  const { metrics } = values;
  if (keeperDescriptor() !== undefined) {
    const one = { locks: 'shared' as const, ...settings, isolate: 'none' as const, optionName };
    const plan = {
      options: { exports: [{ ...one, backend: spec, mountedAt: mountOfKeeper() }] },
      logConfig,
      // An engine is its keeper's affair.
      notifies: false,
      metrics: textOf(metrics),
      accessLog,
      control: textOf(values['control']),
    };
    await start(plan, confinementOf(confinement, values), registry);
    return;
  }
  const [{ keepMount }, { createLogger, keptMountPoint }] = await Promise.all([
    import('../serving/keep-mount.js'),
    import('../../plugins/index.js'),
  ]);
  const log = createLogger(logConfig);
  const { readOnly } = settings;
  const allowOther = values['allowOther'] === true ? true : undefined;
  const options = { directory, backend: spec, registry, readOnly, allowOther };
  const place = await keptMountPoint(options);
  const listeners = { metrics: textOf(metrics), control: textOf(values['control']) };
  await keepMount(place, options, listeners, await serviceManager(logConfig), log);
}

const EXAMPLES = `
Examples:
  virtiofs-kit mount /mnt --backend memfs
  virtiofs-kit mount ~/bucket --backend s3 --bucket my-data --read-only
  virtiofs-kit mount /mnt --backend ./my-backend.js --log-level debug
  virtiofs-kit mount /mnt --keep --backend passthrough --shared-dir /srv/data
  virtiofs-kit mount /mnt --backend memfs --daemon && touch /mnt/file

In /etc/fstab, where /sbin/mount.virtiofs-kit is a link to the program of that name:
  virtiofs-kit:s3  /mnt/data  virtiofs-kit  bucket=my-data,prefix=x,_netdev,nofail  0 0

Root mounts by itself; other users need fusermount3: apt-get install fuse3
`;
