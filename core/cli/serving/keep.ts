import { UsageError, type Logger } from '../../backend/index.js';
import { CommandSocket } from '../../control/index.js';
import { FIRST_INHERITED, Keeper, type KeptSocket } from '../../keeper/index.js';
import { groupId, type ServedExport } from '../../plugins/index.js';
import { checkedExports } from '../../plugins/checked-exports.js';
import type { CheckedExport } from '../../plugins/served-export.js';
import { keepControl } from './control.js';
import { keepMetrics } from './metrics.js';
import { serving } from './systemd-notices.js';
import { aborted, stopSignal } from './signals.js';
import type { Fd, ServiceManager } from '../../system/index.js';

/** Where the keeper of a vhost-user socket listens for `upgrade`. */
export function keeperSocket(socket: string): string {
  return `${socket}.keeper`;
}

/** What the keeper listens on in the place of engines. */
export interface KeptListeners {
  readonly metrics: string | undefined;
  readonly control: string | undefined;
}

/**
 * Keeps the guests of exports, which engines in processes of their own serve, until a signal. An
 * engine is this program with the same words. SIGHUP, or a command at the keeper's socket, replaces
 * it.
 * @param listeners where figures are served, as `--metrics` takes it, and commands are taken.
 * @param manager is told when an engine serves, and when it is replaced.
 * @throws UsageError for exports that cannot be kept, or a socket that can't be had.
 */
export async function keep(
  exports: readonly ServedExport[],
  listeners: KeptListeners,
  manager: ServiceManager | undefined,
  log: Logger,
): Promise<void> {
  const sockets = checkedExports(exports).map(keptSocket);
  const status = serving(exports.length);
  const kept = { sockets, upgradesAt: sockets.map(({ path }) => path), endsAtOnce: false, status };
  await withKeeper(kept, listeners, manager, log, async (keeper, stop) => {
    void keeper.serving().then(() => manager?.ready(status));
    await Promise.race([aborted(stop), keeper.ended]);
    manager?.stopping();
    log.info({}, stop.aborted ? 'stopping' : 'the last front-end has gone');
  });
}

/** What a keeper keeps. */
export interface Kept {
  readonly sockets: readonly KeptSocket[];
  /** Paths beside which it listens for `upgrade`. */
  readonly upgradesAt: readonly string[];
  /** See `KeeperOptions`. */
  readonly endsAtOnce: boolean;
  /** What the service manager shows. */
  readonly status: string;
}

/**
 * Starts a keeper, whose engines are this program with the same words, and ends it after `during`.
 * @throws UsageError for a socket that can't be had.
 */
export async function withKeeper(
  { sockets, upgradesAt, endsAtOnce, status }: Kept,
  { metrics, control }: KeptListeners,
  manager: ServiceManager | undefined,
  log: Logger,
  during: (keeper: Keeper, stop: AbortSignal) => Promise<void>,
): Promise<void> {
  const upgrade = async (): Promise<readonly string[]> => {
    manager?.reloading();
    try {
      return [await keeper.upgrade()];
    } finally {
      manager?.ready(status);
    }
  };
  const stop = stopSignal(() => {
    upgrade().catch((error: unknown) => log.error({ reason: (error as Error).message }, 'no upgrade'));
  });
  const [, script, ...words] = process.argv;
  const command = [process.execPath, ...process.execArgv, script!, ...words];
  const listeners: { readonly fd: Fd; close(): void }[] = [];
  const closeListeners = (): void => {
    for (const listener of listeners) listener.close();
  };
  let keeper: Keeper;
  try {
    if (metrics !== undefined) listeners.push(await keepMetrics(metrics, FIRST_INHERITED));
    if (control !== undefined) listeners.push(keepControl(control, FIRST_INHERITED + listeners.length));
    keeper = Keeper.start({ sockets, command, inherited: listeners.map(({ fd }) => fd), log, endsAtOnce });
  } catch (error) {
    closeListeners();
    throw (error as Error).name === 'ListenError'
      ? new UsageError((error as Error).message, { cause: error })
      : error;
  }
  const upgrades: CommandSocket[] = [];
  try {
    for (const path of upgradesAt) {
      const socket = CommandSocket.listen(keeperSocket(path), upgrade, log);
      if (socket !== undefined) upgrades.push(socket);
    }
    await during(keeper, stop);
  } finally {
    await keeper.close();
    for (const socket of upgrades) await socket.close();
    closeListeners();
    manager?.close();
  }
}

function keptSocket({
  socket,
  socketMode,
  socketGroup,
  maxConnections,
  exitOnDisconnect,
}: CheckedExport): KeptSocket {
  if (socket === undefined) throw new UsageError('--fd and --fd-name: not with --keep, which needs a path');
  return {
    path: socket,
    mode: socketMode === undefined ? undefined : Number.parseInt(socketMode, 8),
    group: socketGroup === undefined ? undefined : groupId(socketGroup),
    maxConnections,
    once: exitOnDisconnect,
  };
}
