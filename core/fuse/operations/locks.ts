import { Errno, type Awaitable } from '../../backend/index.js';
import {
  HandleKind,
  LockType,
  OFFSET_MAX,
  PARKED as LOCK_PARKED,
  u64,
  type HandleIndex,
  type LockConflict,
  type LockRequest,
  type Slot,
} from '../../state/index.js';
import { LK_FLOCK } from '../wire/abi.js';
import { PARKED, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import { fuse_file_lock, fuse_lk_in, fuse_lk_out } from '../wire/structures.js';

/** Of another host's lock no more is known than that it is there. */
const ELSEWHERE: LockConflict = { type: LockType.WRITE, start: 0n, end: OFFSET_MAX, pid: 0 };

export const getlk: Operation<LockConflict | number | undefined> = {
  name: 'GETLK',
  arguments: fuse_lk_in.bytes,
  reply: fuse_lk_out.bytes,
  start(session, request) {
    const asked = lockRequest(session);
    const { hostLocks } = session.export;
    const conflict = session.locks.test(asked);
    if (conflict !== undefined || hostLocks === undefined) return conflict;
    request.handle = asked.handle as HandleIndex;
    return hostLocks.isTaken(asked, request.context).then((isTaken) => (isTaken ? ELSEWHERE : undefined));
  },
  finish(session, _request, conflict) {
    if (typeof conflict === 'number') return -conflict;
    const { out } = session;
    const at = BODY + fuse_lk_out.lk;
    out.zero(at, fuse_file_lock.bytes);
    if (conflict === undefined) out.u32(at + fuse_file_lock.type, LockType.UNLOCK);
    else {
      out.bigint(at + fuse_file_lock.start, conflict.start);
      out.bigint(at + fuse_file_lock.end, conflict.end);
      out.u32(at + fuse_file_lock.type, conflict.type);
      out.u32(at + fuse_file_lock.pid, conflict.pid);
    }
    return fuse_lk_out.bytes;
  },
};

export const setlk: Operation<number> = {
  name: 'SETLK',
  arguments: fuse_lk_in.bytes,
  reply: 0,
  start(session, request) {
    return setLock(session, request, lockRequest(session), isFlock(session));
  },
  finish: finishLock,
};

/** Waits for a lock. The request is parked meanwhile, so that it holds up no other request. */
export const setlkw: Operation<number> = {
  name: 'SETLKW',
  arguments: fuse_lk_in.bytes,
  reply: 0,
  start(session, request) {
    const wanted = lockRequest(session);
    const asFlock = isFlock(session);
    const { hostLocks } = session.export;
    const { locks } = session;
    if (wanted.type === LockType.UNLOCK) return setLock(session, request, wanted, asFlock);
    const unique = u64(request.uniqueHigh, request.uniqueLow);
    const done = (errno: number): void => session.answer(request, -errno);
    let result: number;
    if (hostLocks !== undefined)
      result = hostLocks.wait(locks, wanted, asFlock, unique, request.context, done);
    else result = asFlock ? locks.flockWait(wanted, unique, done) : locks.wait(wanted, unique, done);
    if (result !== LOCK_PARKED) return result;
    request.lockId = unique;
    session.park(request);
    return PARKED;
  },
  finish: finishLock,
};

/** Locks or unlocks without waiting for another lock. */
function setLock(
  session: Session,
  request: Request,
  wanted: LockRequest<Slot> & { readonly handle: number },
  asFlock: boolean,
): Awaitable<number> {
  const { hostLocks } = session.export;
  const { locks } = session;
  if (hostLocks === undefined) return asFlock ? locks.flock(wanted) : locks.set(wanted);
  request.handle = wanted.handle as HandleIndex;
  return hostLocks.set(locks, wanted, asFlock, request.context);
}

function finishLock(_session: Session, _request: Request, errno: number): number {
  return errno === 0 ? 0 : -(errno > 0 ? errno : Errno.EIO);
}

function isFlock(session: Session): boolean {
  return (session.in.u32(fuse_lk_in.lk_flags) & LK_FLOCK) !== 0;
}

function lockRequest(session: Session): LockRequest<Slot> {
  const { in: input } = session;
  const handle = session.handle(fuse_lk_in.fh, HandleKind.FILE);
  const lock = fuse_lk_in.lk;
  return {
    node: session.handles.slot(handle),
    owner: input.bigint(fuse_lk_in.owner),
    type: input.u32(lock + fuse_file_lock.type),
    start: input.bigint(lock + fuse_file_lock.start),
    end: input.bigint(lock + fuse_file_lock.end),
    pid: input.u32(lock + fuse_file_lock.pid),
    handle,
  };
}
