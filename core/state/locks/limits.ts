/** Limits on the locks that guests can make the table keep. Beyond them: ENOLCK. */
export interface LockLimits {
  /** Locked ranges of one session; a flock counts as one. */
  readonly sessionLocks: number;
  /** Locked ranges of all sessions. */
  readonly totalLocks: number;
  /**
   * Parked requests of one session. Each keeps a place in its transport's queue: they must be fewer
   * than a queue has, or no unlock gets through. The default suits QEMU's queues of 128.
   */
  readonly sessionWaiters: number;
  /** Parked requests of all sessions. */
  readonly totalWaiters: number;
}

export const defaultLockLimits: LockLimits = {
  sessionLocks: 131_072,
  totalLocks: 1_048_576,
  sessionWaiters: 96,
  totalWaiters: 4096,
};
