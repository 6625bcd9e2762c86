import {
  type Export,
  findMigrated,
  restoreHostLocks,
  retakeLocks,
  saveMigrating,
  type HandleIndex,
  NO_SLOT,
} from '../../state/index.js';
import { type Negotiated, negotiate } from './negotiation.js';
import { restoreInto, saveSession } from './saved-session.js';
import type { Session } from './session.js';

/** What becomes of a guest of whose state something cannot be had at the destination. */
export type OnMigrationError = 'abort' | 'guest-error';

export interface MigratedOptions {
  /** Begins the session. */
  openSession(): Session;
  /** Whether no other guest uses the export. */
  readonly isAlone: boolean;
  /**
   * `abort`: the guest stays where it is. `guest-error`: it comes, and what is lost fails by
   * itself: a node with ESTALE, an open file with EBADF, one on which a lock is lost with EIO.
   */
  readonly onError: OnMigrationError;
}

/**
 * What a guest has, as bytes for {@link loadMigrating}. Nothing may be in flight. The session stays
 * as it is.
 * @throws Error that says why the guest cannot leave.
 */
export function saveMigratingSession(session: Session): Promise<Uint8Array> {
  return saveMigrating(session.export, session.locks.id, (node) => saveSession(session, node));
}

/**
 * A session that goes on with what {@link saveMigratingSession} gave in another process, in an
 * export that is served already.
 * @throws Error that says why it cannot be. Nothing stays of it then.
 */
export async function loadMigratingSession(
  shared: Export,
  bytes: Uint8Array,
  { openSession, isAlone, onError }: MigratedOptions,
): Promise<Session> {
  const arrived = await findMigrated(shared, bytes, isAlone);
  const session = openSession();
  let isRefused = false;
  try {
    checkAgreed(shared, arrived.session.negotiated);
    const files = await restoreInto(session, arrived, arrived.session);
    const slot = (index: number) => {
      const found = arrived.slot(index);
      return found === NO_SLOT ? undefined : found;
    };
    const locks = await restoreHostLocks(shared, arrived.locks, slot, (held) =>
      retakeLocks(session.locks, held, slot),
    );
    for (const { handle } of locks) session.loseLock(handle as HandleIndex);
    const lost = { nodes: arrived.lost, files, locks: locks.length };
    if (lost.nodes + lost.files + lost.locks > 0) {
      if (onError === 'abort')
        throw new Error(
          `${lost.nodes} nodes, ${lost.files} open files and ${lost.locks} locks of it cannot be had here`,
        );
      session.log.warn(lost, 'a guest has come without some of what it had');
    }
    arrived.remember();
    session.journal?.describe();
    session.journal?.collect();
    return session;
  } catch (error) {
    await session.close();
    isRefused = true;
    throw error;
  } finally {
    arrived.finish();
    if (isRefused) await shared.accelerator.transfer?.undo();
  }
}

/** @throws RangeError if the guest uses something that this export does not offer. */
function checkAgreed(shared: Export, agreed: Negotiated | undefined): void {
  if (agreed === undefined) return;
  const here = negotiate(agreed, shared);
  const flags = (agreed.flags & ~here.flags) >>> 0;
  const flags2 = (agreed.flags2 & ~here.flags2) >>> 0;
  if (
    flags !== 0 ||
    flags2 !== 0 ||
    agreed.flags !== (agreed.flags | 0) ||
    agreed.flags2 !== (agreed.flags2 | 0)
  )
    throw new RangeError(
      `it has agreed to what is not offered here (INIT flags 0x${flags.toString(16)}, flags2 0x${flags2.toString(16)}): cache, locks, access control lists or the backend are set otherwise`,
    );
  if (agreed.minor > here.minor || agreed.maxWrite > here.maxWrite || agreed.maxPages > here.maxPages)
    throw new RangeError('it has agreed to larger requests, or a later protocol, than there are here');
}
