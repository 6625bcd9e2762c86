import { Errno, FsError, type ErrnoName } from '../../../../core/backend/index.js';
import {
  HostLocks,
  LockTable,
  LockType,
  OFFSET_MAX,
  PARKED,
  type LockRequest,
  type LockSession,
} from '../../../../core/state/index.js';
import type { LeasedBackend } from '../../../../backends/s3/leased-backend.js';
import type { Node } from '../../../../backends/s3/tree/nodes.js';
import { context, Mount, type TestBucket } from '../support.js';

const names = new Map<number, ErrnoName>(
  Object.entries(Errno).map(([name, errno]) => [errno, name as ErrnoName]),
);

/** A mount with the locks of one guest, as the engine keeps them. Locks are flocks. */
export class LockingMount {
  readonly mount: Mount;
  readonly locks: LockSession<Node>;
  readonly #hostLocks: HostLocks<Node>;
  #unique = 0n;

  private constructor(mount: Mount) {
    this.mount = mount;
    const table = new LockTable<Node>({ loosened: (node) => void this.#hostLocks.lower(node) });
    const backend = mount.backend as LeasedBackend;
    this.#hostLocks = new HostLocks(table, {
      ask: (...args) => backend.lock(...args),
      retain: () => undefined,
      release: () => undefined,
      report: () => undefined,
    });
    this.locks = table.openSession(1);
  }

  static async open(bucket: TestBucket, options: Record<string, unknown> = {}): Promise<LockingMount> {
    return new LockingMount(await Mount.open(bucket, { sharing: 'leases', ...options }));
  }

  /** Every guest's process that locks has an owner of its own. */
  request(node: Node, type: number, owner = 1n): LockRequest<Node> {
    return { node, owner, type, start: 0n, end: OFFSET_MAX, pid: 1, handle: 1 };
  }

  /** flock(2) with LOCK_NB. @throws EAGAIN and the like. */
  async tryLock(path: string, type: number = LockType.WRITE, owner = 1n): Promise<void> {
    const request = this.request(await this.mount.at(path), type, owner);
    succeed(await this.#hostLocks.set(this.locks, request, true, context));
  }

  /** flock(2). @returns the request's number, by which it is interrupted, and its end. */
  async begin(path: string, type: number, owner: bigint): Promise<{ unique: bigint; over: Promise<void> }> {
    const request = this.request(await this.mount.at(path), type, owner);
    const unique = ++this.#unique;
    const over = new Promise<number>((resolve) => {
      const result = this.#hostLocks.wait(this.locks, request, true, unique, context, resolve);
      if (result !== PARKED) resolve(result);
    }).then(succeed);
    return { unique, over };
  }

  /** flock(2). */
  async lock(path: string, type: number = LockType.WRITE, owner = 1n): Promise<void> {
    await (
      await this.begin(path, type, owner)
    ).over;
  }

  /** flock(2) with LOCK_UN. */
  async unlock(path: string, owner = 1n): Promise<void> {
    const node = await this.mount.at(path);
    succeed(await this.#hostLocks.set(this.locks, this.request(node, LockType.UNLOCK, owner), true, context));
  }

  /** Whether F_GETLK finds a lock of another host. */
  async isTaken(path: string, type: number = LockType.WRITE): Promise<boolean> {
    return this.#hostLocks.isTaken(this.request(await this.mount.at(path), type), context);
  }

  /** The process is gone, as far as others can see. What it has staged stays in its folder. */
  async kill(): Promise<void> {
    this.mount.backend.recovery.leave!();
    await this.mount.close();
  }

  /** The guest ends: its locks go. */
  async close(): Promise<void> {
    await this.locks.close(Errno.EINTR);
    await this.#hostLocks.settled();
    await this.mount.close();
  }
}

function succeed(errno: number): void {
  if (errno !== 0) throw FsError.of(names.get(errno)!);
}
