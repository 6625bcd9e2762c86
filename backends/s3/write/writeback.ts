import { FsError } from '../../../core/backend/index.js';
import type { Logger } from '../../../core/backend/index.js';
import { Deadline, parallel } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import { pathOf } from '../tree/nodes.js';
import type { FileNode } from '../tree/nodes.js';
import type { S3Options } from '../options.js';

/** First and longest pause before a failed upload is tried again, milliseconds. */
const RETRY_FIRST = 1_000;
const RETRY_MOST = 60_000;
/** Milliseconds without a change, behind which the guest counts as at rest. */
const QUIET = 100;
/** How often the delay uploads wait at most, beside it, for a guest that is at work. */
const PATIENCE = 4;
/** Bytes of a journal that one change takes at most, beside the data: attributes in JSON. */
const RECORD_MOST = 4096;

interface Due {
  timer: NodeJS.Timeout;
  at: number;
  failures: number;
}

/** Files whose data the bucket does not have yet, and when each is to be uploaded. */
export class Writeback {
  readonly #options: S3Options;
  readonly #log: Logger;
  readonly #commit: (node: FileNode) => Promise<void>;
  readonly #dirty = new Map<FileNode, Due>();
  #wake: (() => void)[] = [];
  #changed = Number.NEGATIVE_INFINITY;
  /** Bytes in journals when they were last counted, and what has come since, at most. */
  #counted = 0;
  #grown = 0;
  #calming: Promise<void> | undefined;
  #closed = false;

  /** @param commit uploads all that a file has staged at the time of the call. */
  constructor(options: S3Options, log: Logger, commit: (node: FileNode) => Promise<void>) {
    this.#options = options;
    this.#log = log;
    this.#commit = commit;
  }

  /** Files with staged data. */
  get files(): readonly FileNode[] {
    return [...this.#dirty.keys()].filter((node) => node.staged !== undefined);
  }

  /** Bytes in journals. */
  get bytes(): number {
    let sum = 0;
    for (const node of this.#dirty.keys()) sum += node.staged?.log.size ?? 0;
    return sum;
  }

  /** A file has changed: it goes up after the longest age at the latest. */
  touched(node: FileNode): void {
    this.#changed = performance.now();
    this.#grown += RECORD_MOST;
    if (!this.#dirty.has(node)) this.schedule(node, this.#options.maxDirtyAge);
  }

  /** Uploads a file in so many seconds, if it was not to go up sooner. */
  schedule(node: FileNode, seconds: number, failures = 0): void {
    if (this.#closed) return;
    const at = performance.now() + seconds * 1000;
    const due = this.#dirty.get(node);
    if (due !== undefined && due.at <= at) return;
    clearTimeout(due?.timer);
    const timer = setTimeout(() => void this.#run(node), seconds * 1000);
    timer.unref();
    this.#dirty.set(node, { timer, at, failures });
  }

  async #run(node: FileNode): Promise<void> {
    const due = this.#dirty.get(node);
    if (due !== undefined) due.at = Number.POSITIVE_INFINITY;
    const failures = due?.failures ?? 0;
    if (!this.#exceed(this.#options.maxDirty / 2)) await (this.#calming ??= this.#calm());
    if (this.#closed || !this.#dirty.has(node)) return;
    try {
      await this.#commit(node);
    } catch (error) {
      if (node.staged === undefined || this.#closed) return;
      const delay = Math.min(RETRY_MOST, RETRY_FIRST * 2 ** failures) * (0.5 + Math.random() / 2);
      this.#log.warn(
        { path: pathOf(node), error: error instanceof S3Failure ? error.message : String(error), delay },
        'upload failed; the data stays in the journal and goes up later',
      );
      this.schedule(node, delay / 1000, failures + 1);
    }
  }

  /**
   * Uploads that nobody waits for step back while the guest itself changes files, for a limited
   * time.
   */
  async #calm(): Promise<void> {
    const until = performance.now() + PATIENCE * this.#options.writebackDelay * 1000;
    for (;;) {
      const now = performance.now();
      const pause = Math.min(this.#changed + QUIET, until) - now;
      if (pause <= 0 || this.#closed) break;
      await new Promise((resolve) => setTimeout(resolve, pause).unref());
    }
    this.#calming = undefined;
  }

  /** A file has nothing staged any more. */
  clean(node: FileNode): void {
    clearTimeout(this.#dirty.get(node)?.timer);
    this.#dirty.delete(node);
    for (const wake of this.#wake.splice(0)) wake();
  }

  /**
   * Whether there are more bytes in journals. To count them takes as long as there are files, so it
   * is done when they may be.
   */
  #exceed(limit: number): boolean {
    if (this.#counted + this.#grown <= limit) return false;
    this.#counted = this.bytes;
    this.#grown = 0;
    return this.#counted > limit;
  }

  /**
   * Returns when the journals have room for more: uploads are hurried while they have not.
   * @param length bytes that are to be written.
   * @throws ENOSPC when none came free in time.
   */
  async room(length: number, deadline: Deadline): Promise<void> {
    this.#grown += length;
    while (this.#exceed(this.#options.maxDirty)) {
      if (deadline.remaining === 0) throw FsError.of('ENOSPC');
      for (const node of this.files) this.schedule(node, 0);
      const freed = new Promise<void>((resolve) => this.#wake.push(resolve));
      const pause = Math.min(1000, deadline.remaining);
      await Promise.race([freed, deadline.sleep(pause)]);
    }
  }

  /** Uploads everything. @throws the first error; the others are still tried. */
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
