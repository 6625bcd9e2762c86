import { compileLater, ControlSocket, MountedExport, Services } from '../../plugins/index.js';
import type { BackendOptions } from '../backend-options.js';
import type { Values } from '../flags.js';
import { tellReady } from './background.js';
import { logConfigOf, servicesOf } from './log-and-services.js';
import { openMetrics } from './metrics.js';
import { accessLogOf } from './access-log-flags.js';
import { openAccessLogTarget } from './access-log-target.js';
import { aborted, startedBefore, stopSignal, surviveRejections } from './signals.js';
import { serviceManager } from './systemd-notices.js';

/** Mounts a backend on this host, and serves it by this process until a signal or an unmount. */
export async function mountHere(directory: string, values: Values, backend: BackendOptions): Promise<void> {
  const { spec, settings } = backend.choice(values);
  if (spec.type === 's3') compileLater();
  const accessLog = accessLogOf(values, undefined);
  const { control, metrics } = values;
  const stop = stopSignal();
  const target = accessLog && (await openAccessLogTarget(accessLog));
  const listener = typeof metrics === 'string' ? await openMetrics(metrics) : undefined;
  const container = await servicesOf(values, {}, backend.registry);
  const log = container.get(Services.Logger);
  surviveRejections(log);
  const manager = await serviceManager(logConfigOf(values, {}));
  const mounting = MountedExport.open({
    ...settings,
    directory,
    backend: spec,
    kernelIo: values['kernelIo'] === true,
    allowOther: values['allowOther'] === true ? true : undefined,
    optionName: backend.name,
    registry: container.get(Services.Registry),
    log,
  });
  const mounted = await startedBefore(mounting, stop);
  try {
    const requests = await target?.begin(mounted.tracing);
    const commands =
      typeof control === 'string' ? ControlSocket.listen(control, mounted, backend.registry, log) : undefined;
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
