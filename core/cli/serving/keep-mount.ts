import { setTimeout as sleep } from 'node:timers/promises';
import { type Logger, UsageError } from '../../backend/index.js';
import { holdMount, type KeptMountOptions } from '../../plugins/index.js';
import type { ServiceManager } from '../../system/index.js';
import { tellReady } from './background.js';
import { type KeptListeners, withKeeper } from './keep.js';
import { MOUNT_VARIABLE } from './mount-of-keeper.js';
import { aborted } from './signals.js';

/** After a mount was detached, its users have so long to close their files. */
const LINGER_MS = 2000;

/**
 * Keeps a mount of this host, which engines in processes of their own serve, until a signal or an
 * unmount. SIGHUP, or a command at the control socket's keeper, replaces the engine.
 * @param place where it will be, without symbolic links.
 * @throws UsageError if it cannot be mounted, or the first engine does not start.
 */
export async function keepMount(
  place: string,
  options: KeptMountOptions,
  listeners: KeptListeners,
  manager: ServiceManager | undefined,
  log: Logger,
): Promise<void> {
  process.env[MOUNT_VARIABLE] = place;
  const status = `mounted at ${place}`;
  const upgradesAt = listeners.control === undefined ? [] : [listeners.control];
  const kept = { sockets: [], upgradesAt, endsAtOnce: true, status };
  await withKeeper(kept, listeners, manager, log, async (keeper, stop) => {
    stop.addEventListener('abort', () => keeper.willClose());
    await Promise.race([keeper.serving(), keeper.ended, aborted(stop)]);
    if (keeper.failure !== undefined)
      throw new UsageError(`${place}: not mounted, since the engine does not start (${keeper.failure})`);
    if (stop.aborted) return;
    const readOnly = options.readOnly === true || keeper.readOnly[0] === true;
    const mount = await holdMount(place, { ...options, readOnly });
    try {
      const { device, requests } = mount;
      const over = new Promise<void>((resolve) => {
        keeper.hold({
          device,
          requests,
          onEnd(isUnmounted) {
            if (isUnmounted) mount.wasUnmounted();
            resolve();
          },
        });
      });
      log.info({ directory: place }, 'mounted');
      manager?.ready(status);
      tellReady();
      await Promise.race([aborted(stop), over]);
      manager?.stopping();
      log.info({ directory: place }, stop.aborted ? 'unmounting' : 'the mount has ended');
      if (stop.aborted) await endMount(mount, over);
      await keeper.close();
    } finally {
      mount.close();
    }
  });
}

async function endMount(mount: { unmount(): Promise<void> }, over: Promise<void>): Promise<void> {
  await mount.unmount();
  const late = new AbortController();
  await Promise.race([over, sleep(LINGER_MS, undefined, { signal: late.signal }).catch(() => undefined)]);
  late.abort();
}
