import { FsError } from '../../../core/backend/index.js';
import type { Logger } from '../../../core/backend/index.js';
import { parallel } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import { type RetryPauses, retryPauseMs } from '../client/retry-pause.js';
import { pathOf } from '../tree/nodes.js';
import type { FileNode } from '../tree/nodes.js';
import type { DiskSpace } from '../journal/disk-space.js';
import type { S3Options } from '../options.js';

/** Before a failed upload is tried again. */
const PAUSES: RetryPauses = { firstMs: 1_000, maxMs: 60_000 };
/** Milliseconds without a change after which the guest counts as idle. */
const QUIET_MS = 100;
/**
 * Uploads wait for a busy guest for at most this many times the write-back delay, in addition to
 * it.
 */
const CALM_MAX_DELAYS = 4;
/** Most bytes that one change takes in a journal besides the data: attributes in JSON. */
const RECORD_MAX_BYTES = 4096;

/** Part of the free disk that journals may take, where `maxDirty` is more than that. */
const DISK_SHARE = 1 / 2;

interface Due {
  timer: NodeJS.Timeout;
  /** When the file is to be uploaded; while it is, when once more: infinity for never. */
  at: number;
  isUploading: boolean;
  failures: number;
  /** When the file began to have staged data, in milliseconds of `performance.now()`. */
  since: number;
}

/** Files whose data the bucket does not have yet, and when each is to be uploaded. */
export class Writeback {
  readonly #options: S3Options;
  readonly #log: Logger;
  readonly #commit: (node: FileNode) => Promise<void>;
  readonly #space: DiskSpace;
  /** Frees bytes of the disk that are not the journal's. @returns whether some were freed. */
  readonly #free: (bytes: number) => Promise<boolean>;
  readonly #limit: number;
  readonly #dirty = new Map<FileNode, Due>();
  #wake: (() => void)[] = [];
  #changed = Number.NEGATIVE_INFINITY;
  /** Bytes in journals at the last count, and an upper limit of what was added since. */
  #counted = 0;
  #grown = 0;
  #calming: Promise<void> | undefined;
  /** Writers that wait for room. */
  #pressing = 0;
  #closed = false;

  /**
   * @param commit uploads everything that a file has staged when it is called
   * @param free frees bytes of the disk that are not the journal's; returns whether it could
   */
  constructor(
    options: S3Options,
    log: Logger,
    space: DiskSpace,
    commit: (node: FileNode) => Promise<void>,
    free: (bytes: number) => Promise<boolean>,
  ) {
    this.#space = space;
    this.#free = free;
    this.#limit = Math.min(options.maxDirty, space.atStart * DISK_SHARE);
    this.#options = options;
    this.#log = log;
    this.#commit = commit;
  }

  /** Files with staged data. */
  get files(): readonly FileNode[] {
    return [...this.#dirty.keys()].filter((node) => node.staged !== undefined);
  }

  /** Seconds since the oldest change that is still staged; 0 where nothing is. */
  get oldestSeconds(): number {
    const now = performance.now();
    let oldest = now;
    for (const { since } of this.#dirty.values()) oldest = Math.min(oldest, since);
    return (now - oldest) / 1000;
  }

  /** Bytes in journals. */
  get bytes(): number {
    let sum = 0;
    for (const node of this.#dirty.keys()) sum += node.staged?.log.size ?? 0;
    return sum;
  }

  /** Records that a file has changed: it is uploaded after `maxDirtyAge` at the latest. */
  touched(node: FileNode): void {
    this.#changed = performance.now();
    this.#grown += RECORD_MAX_BYTES;
    if (!this.#dirty.has(node)) this.schedule(node, this.#options.maxDirtyAge);
  }

  /** Schedules the upload of a file in so many seconds, unless it is scheduled sooner. */
  schedule(node: FileNode, seconds: number, failures = 0): void {
    if (this.#closed) return;
    const at = performance.now() + seconds * 1000;
    const due = this.#dirty.get(node);
    if (due !== undefined && due.at <= at) return;
    if (due?.isUploading === true) {
      due.at = at;
      due.failures = failures;
      return;
    }
    clearTimeout(due?.timer);
    const timer = setTimeout(() => void this.#run(node), seconds * 1000);
    timer.unref();
    const since = due?.since ?? performance.now();
    this.#dirty.set(node, { timer, at, isUploading: false, failures, since });
  }

  async #run(node: FileNode): Promise<void> {
    const due = this.#dirty.get(node);
    if (due === undefined) return;
    due.at = Number.POSITIVE_INFINITY;
    due.isUploading = true;
    await this.#upload(node, due.failures);
    due.isUploading = false;
    const { at, failures } = due;
    if (this.#dirty.get(node) !== due || at === Number.POSITIVE_INFINITY) return;
    due.at = Number.POSITIVE_INFINITY;
    this.schedule(node, Math.max(0, at - performance.now()) / 1000, failures);
  }

  async #upload(node: FileNode, failures: number): Promise<void> {
    const isPressed = (): boolean => this.#pressing > 0 || this.#exceed(this.#limit / 2);
    if (!isPressed()) await (this.#calming ??= this.#calm(isPressed));
    if (this.#closed || !this.#dirty.has(node)) return;
    try {
      await this.#commit(node);
    } catch (error) {
      if (node.staged === undefined || this.#closed) return;
      const delay = retryPauseMs(PAUSES, failures + 1);
      this.#log.warn(
        { path: pathOf(node), error: error instanceof S3Failure ? error.message : String(error), delay },
        'upload failed; the data stays in the journal and goes up later',
      );
      this.schedule(node, delay / 1000, failures + 1);
    }
  }

  /** Background uploads wait while the guest itself changes files, for a limited time. */
  async #calm(isPressed: () => boolean): Promise<void> {
    const until = performance.now() + CALM_MAX_DELAYS * this.#options.writebackDelay * 1000;
    for (;;) {
      const now = performance.now();
      const pause = Math.min(this.#changed + QUIET_MS, until) - now;
      if (pause <= 0 || this.#closed || isPressed()) break;
      await new Promise((resolve) => setTimeout(resolve, Math.min(pause, QUIET_MS)).unref());
    }
    this.#calming = undefined;
  }

  /** Records that a file has nothing staged any more. */
  clean(node: FileNode): void {
    clearTimeout(this.#dirty.get(node)?.timer);
    this.#dirty.delete(node);
    for (const wake of this.#wake.splice(0)) wake();
  }

  /**
   * Whether the journals have more than `limit` bytes. Counting takes time in proportion to the
   * files, so it is done only if the limit may be exceeded.
   */
  #exceed(limit: number): boolean {
    if (this.#counted + this.#grown <= limit) return false;
    this.#counted = this.bytes;
    this.#grown = 0;
    return this.#counted > limit;
  }

  /**
   * Waits until journals and disk have room for more, and hurries uploads meanwhile.
   * @param length bytes to be written
   * @returns undefined where there is room now.
   * @throws ENOSPC if none became free in time, or nothing can become free.
   */
  room(length: number, deadline: Deadline): Promise<void> | undefined {
    this.#grown += length;
    const has = !this.#exceed(this.#limit) && this.#space.takes(length + RECORD_MAX_BYTES);
    return has ? undefined : this.#makeRoom(length, deadline);
  }

  async #makeRoom(length: number, deadline: Deadline): Promise<void> {
    this.#pressing += 1;
    try {
      for (;;) {
        const isFull = !this.#space.takes(length + RECORD_MAX_BYTES);
        if (!isFull && !this.#exceed(this.#limit)) return;
        if (isFull && (await this.#free(length + RECORD_MAX_BYTES))) continue;
        if (deadline.remaining === 0 || this.files.length === 0) throw FsError.of('ENOSPC');
        for (const node of this.files) this.schedule(node, 0);
        const freed = new Promise<void>((resolve) => this.#wake.push(resolve));
        await Promise.race([freed, deadline.sleep(Math.min(1000, deadline.remaining))]);
      }
    } finally {
      this.#pressing -= 1;
    }
  }

  /** Uploads everything. @throws the first error, after the other files were tried. */
  async flush(): Promise<void> {
    let failure: unknown;
    await parallel(this.files, this.#options.uploads, async (node) => {
      try {
        await this.#commit(node);
      } catch (error) {
        failure ??= error;
      }
    });
    if (failure !== undefined) throw failure;
  }

  close(): void {
    this.#closed = true;
    for (const { timer } of this.#dirty.values()) clearTimeout(timer);
  }
}
