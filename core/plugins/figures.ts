import type { Backend, Health, Logger, Metric } from '../backend/index.js';
import { type Counters, Session } from '../fuse/index.js';
import type { ExportFigures } from '../monitoring/index.js';
import type { Export } from '../state/index.js';
import type { VhostUserServer } from '../vhost-user/index.js';

/** What a server serves, and what its guests have done. */
export interface FigureSource {
  readonly tag: string;
  /** Tells it from others with the same tag: a path or a descriptor's number. */
  readonly socket: string;
  readonly backend: string;
  readonly export: Export;
  readonly counters: Counters;
}

/** Milliseconds that a backend may take to say how it is. */
const HEALTH_TIMEOUT_MS = 2000;

/** What there is to see of a server now. Never rejects. */
export async function figuresOf(
  server: VhostUserServer,
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
    locks: sum(({ locks }) => locks.counts.locks),
    waitingLocks: sum(({ locks }) => locks.counts.waiters),
    counters,
    metrics: metricsOf(shared.backend, tag, log),
  };
}

async function healthOf(backend: Backend): Promise<Health> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Health>((resolve) => {
    timer = setTimeout(() => resolve({ ok: false, detail: 'it does not say how it is' }), HEALTH_TIMEOUT_MS);
  });
  try {
    return await Promise.race([backend.health?.() ?? { ok: true }, late]);
  } catch (error) {
    return { ok: false, detail: String(error) };
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
