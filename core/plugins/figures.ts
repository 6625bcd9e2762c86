import { DAEMON, type Backend, type Health, type Logger, type Metric } from '../backend/index.js';
import {
  type Counters,
  type ExportPace,
  type NodeIdHigh,
  type NodeIdLow,
  Session,
  TIMED_ONE_OF,
} from '../fuse/index.js';
import type { ExportFigures } from '../monitoring/index.js';
import { BUSIEST, LOCK_WAITS_MAX, type ExportDetails } from '../monitoring/status.js';
import type { GuestStatus, LockWait } from '../monitoring/status-json.js';
import { LockType, NO_SLOT, ROOT_SLOT, type Export, type Slot, type WaitingLock } from '../state/index.js';

/** What has the sessions of an export: a server, or a mount. */
export interface SessionSource {
  readonly sessions: readonly unknown[];
}

/** What a server serves, and what its guests have done. */
export interface FigureSource {
  readonly tag: string;
  /** Tells it from others with the same tag: a path or a descriptor's number. */
  readonly socket: string;
  readonly backend: string;
  readonly export: Export;
  readonly counters: Counters;
  /** How much its guests may do in a second; a mount has no limit. */
  readonly pace?: ExportPace;
}

/** Milliseconds that a backend may take to say how it is, or what a file is. */
const ANSWER_TIMEOUT_MS = 2000;

/** What there is to see of a server now. Never rejects. */
export async function figuresOf(
  server: SessionSource,
  { tag, backend, export: shared, counters }: FigureSource,
  log: Logger,
): Promise<ExportFigures> {
  const sessions = server.sessions.filter((session) => session instanceof Session);
  for (const session of sessions) session.countThreads();
  const sum = (of: (session: Session) => number): number =>
    sessions.reduce((total, session) => total + of(session), 0);
  const { ok, detail = '' } = await healthOf(shared.backend);
  return {
    tag,
    backend,
    isUp: ok,
    detail,
    connections: sessions.length,
    mounts: sessions.filter(({ negotiated }) => negotiated !== undefined).length,
    nodes: shared.nodes.size,
    handles: sum(({ handles }) => handles.size),
    listingBytes: shared.listings.used,
    inFlight: sum(({ inFlight }) => inFlight),
    heldBack: sum(({ heldBack }) => heldBack),
    locks: sum(({ locks }) => locks.counts.locks),
    waitingLocks: sum(({ locks }) => locks.counts.waiters),
    counters,
    metrics: metricsOf(shared.backend, tag, log),
  };
}

/** What `virtiofs-kit status` shows of a server now. Never rejects. */
export async function detailsOf(
  server: SessionSource,
  source: FigureSource,
  log: Logger,
): Promise<ExportDetails> {
  const { export: shared } = source;
  const waiting = shared.locks.waiting(LOCK_WAITS_MAX);
  const [figures, lockWaits, space, busiestFiles] = await Promise.all([
    figuresOf(server, source, log),
    Promise.all(waiting.map((wait) => lockWaitOf(shared, wait))),
    spaceOf(shared),
    busiestFilesOf(source),
  ]);
  const sessions = server.sessions.filter((session) => session instanceof Session);
  const longestWaitSeconds = Math.max(0, ...sessions.map(({ longestWait }) => longestWait)) / 1000;
  const busiestProcesses = source.counters.processes.top(BUSIEST).map(({ low, high, count }) => ({
    guest: high >>> 0,
    pid: low >>> 0,
    requests: count * TIMED_ONE_OF,
  }));
  return {
    figures,
    guests: sessions.map(guestOf),
    lockWaits,
    longestWaitSeconds,
    space,
    busiestFiles,
    busiestProcesses,
  };
}

function guestOf({ negotiated, handles, inFlight, heldBack, locks }: Session): GuestStatus {
  return {
    id: locks.id,
    isMounted: negotiated !== undefined,
    handles: handles.size,
    inFlight,
    heldBack,
    locks: locks.counts.locks,
    waitingLocks: locks.counts.waiters,
  };
}

async function lockWaitOf(shared: Export, wait: WaitingLock<Slot>): Promise<LockWait> {
  const { node, kind, type, start, end, session, pid, heldBySession, heldByPid, since } = wait;
  const ino = await inodeOf(shared, node);
  return {
    ...(ino !== undefined && { ino }),
    kind,
    wanted: type === LockType.WRITE ? 'write' : 'read',
    start: `${start}`,
    end: `${end}`,
    guest: session,
    pid,
    heldByGuest: heldBySession,
    heldByPid,
    seconds: (performance.now() - since) / 1000,
  };
}

/** A file's inode number as its guests see it, if the backend tells it in time. */
async function inodeOf({ backend, nodes }: Export, slot: Slot): Promise<string | undefined> {
  const id = (BigInt(nodes.idHigh(slot)) << 32n) | BigInt(nodes.idLow(slot) >>> 0);
  const node = nodes.node(slot);
  try {
    return await inTime(async () => {
      const told = backend.getattr(node, undefined, DAEMON);
      // A backend may fill the same object for each answer: it is read before it is asked again.
      const { ino = BigInt.asUintN(64, id) } = told instanceof Promise ? await told : told;
      return `${ino}`;
    }, undefined);
  } catch {
    return undefined;
  }
}

/** The busiest of the files that guests still know. */
async function busiestFilesOf({
  export: shared,
  counters,
}: FigureSource): Promise<ExportDetails['busiestFiles']> {
  const found = counters.files.top(BUSIEST).map(async ({ low, high, count }) => {
    const slot = shared.nodes.find(low as NodeIdLow, high as NodeIdHigh);
    const ino = slot === NO_SLOT ? undefined : await inodeOf(shared, slot);
    return ino === undefined ? [] : [{ ino, requests: count * TIMED_ONE_OF }];
  });
  return (await Promise.all(found)).flat();
}

/** The file system's size as its guests see it, if the backend tells it in time. */
async function spaceOf({ backend, nodes }: Export): Promise<ExportDetails['space']> {
  try {
    const told = await inTime(async () => {
      const answer = backend.statfs?.(nodes.node(ROOT_SLOT), DAEMON);
      return { ...(answer instanceof Promise ? await answer : answer) };
    }, undefined);
    if (told === undefined || backend.statfs === undefined) return undefined;
    const { blockSize = 4096, blocks = 0, blocksFree = 0, blocksAvailable = blocksFree } = told;
    const { files = 0, filesFree = 0 } = told;
    const space = {
      bytes: blocks * blockSize,
      freeBytes: blocksAvailable * blockSize,
      files,
      freeFiles: filesFree,
    };
    return Object.values(space).every((value) => value >= 0 && Number.isFinite(value)) ? space : undefined;
  } catch {
    return undefined;
  }
}

async function healthOf(backend: Backend): Promise<Health> {
  const late: Health = { ok: false, detail: 'it does not say how it is' };
  try {
    return await inTime<Health>(async () => backend.health?.() ?? { ok: true }, late);
  } catch (error) {
    return { ok: false, detail: String(error) };
  }
}

/** What a backend answers within {@link ANSWER_TIMEOUT_MS}, else `late`. Rejects as it does. */
async function inTime<T>(ask: () => Promise<T>, late: T): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<T>((resolve) => {
    timer = setTimeout(() => resolve(late), ANSWER_TIMEOUT_MS);
  });
  try {
    return await Promise.race([ask(), over]);
  } finally {
    clearTimeout(timer);
  }
}

function metricsOf(backend: Backend, tag: string, log: Logger): readonly Metric[] {
  try {
    return backend.metrics?.() ?? [];
  } catch (error) {
    log.warn({ export: tag, err: error }, 'the backend has no figures to give');
    return [];
  }
}
