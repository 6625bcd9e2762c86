import { open, readFile, unlink } from 'node:fs/promises';
import * as z from 'zod';
import { FsError, LockHold, UsageError, type Awaitable, type Context } from '../../../core/backend/index.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import type { Services, UploadFence } from '../service/services.js';
import { pathOf, type FileNode } from '../tree/nodes.js';
import { LeaseStore } from './lease-store.js';
import { OtherLeases } from './other-leases.js';
import { LEASE_LOST, OwnLease } from './own-lease.js';
import { fileKey, fileRecord, mountKey, WAITING_MAX, type FileRecord } from './records.js';

/** Attempts at a change of a file's record, where other mounts change it at the same time. */
const ATTEMPTS = 16;
/** Milliseconds after which a mount that is next, and does not come, is passed by. */
const TURN_MS = 3_000;
/** Most files whose turns are remembered. */
const TURNS_MAX = 1024;
/** Milliseconds after which what could not be given up is tried again. */
const AGAIN_MS = 1_000;
/** Paths that a line of the log has at most. */
const PATHS_MAX = 8;

const LOST =
  'the lease is lost, since it could not be renewed in time: what was written under its locks and was not uploaded is kept aside, and changes get EIO until guests have given the locks up; see "virtiofs-kit s3 status"';

const EMPTY: Pick<FileRecord, 'holders' | 'waiting'> = { holders: [], waiting: [] };

/** What is held of a file. */
interface Held {
  readonly key: string;
  hold: LockHold;
  /** Nobody needs it any more, but it could not be given up yet. */
  isLeaving: boolean;
}

/** What leases ask of the mount that they are part of. */
export interface LeasesOwner {
  /** File that outlives the process, with this mount's lease. */
  readonly file: string;
  /** Uploads everything that is staged, and makes all removals. */
  flush(): Promise<void>;
  /** Keeps everything aside that is staged. */
  abandon(): Promise<void>;
}

const noted = z.strictObject({ version: z.literal(1), id: z.uuid() });

/** What a start finds of the lease of the process before. */
export type LeaseFound = 'none' | 'kept' | 'lost';

/**
 * Has other mounts of the same prefix keep to the locks of guests: see docs/decisions/0016. A file
 * that is locked is held by this mount, in a record in the bucket. All that it holds is held as
 * long as its lease lasts.
 */
export class Leases implements UploadFence {
  readonly #services: Services;
  readonly #owner: LeasesOwner;
  readonly #held = new Map<FileNode, Held>();
  /** Files that guests believe to have locked, though the lease is lost. */
  readonly #lost = new Set<FileNode>();
  readonly #turns = new Map<string, { readonly etag: string; readonly since: number }>();
  #store: LeaseStore | undefined;
  #others: OtherLeases | undefined;
  #own: OwnLease | undefined;
  #beginning: Promise<OwnLease> | undefined;
  /** The uploads that a process before has left go on under its lease. */
  #settling: Promise<void> | undefined;
  #hasFormer = false;
  #abandoning: Promise<void> | undefined;
  #again: NodeJS.Timeout | undefined;
  #leavingAll: Promise<void> | undefined;
  #isClosed = false;
  /** Milliseconds of `performance.now()`: what was heard before is not believed any more. */
  freshSince = Number.NEGATIVE_INFINITY;

  constructor(services: Services, owner: LeasesOwner) {
    this.#services = services;
    this.#owner = owner;
  }

  /** How many files are held, and of how many the lease is lost while guests have locks on them. */
  get counts(): { readonly held: number; readonly lost: number } {
    return { held: this.#held.size, lost: this.#lost.size };
  }

  /**
   * Begins service, and takes up the lease of a process before.
   * @throws UsageError where the server keeps no conditions.
   */
  async start(deadline: Deadline): Promise<LeaseFound> {
    const { bucket } = this.#services;
    await bucket.known(deadline);
    const { capabilities } = bucket;
    if (capabilities === undefined || !capabilities.create || !capabilities.replace) {
      throw new UsageError(
        'sharing leases: this server ignores conditions of writes (If-None-Match, If-Match), so that no lock would hold; leave --sharing out',
      );
    }
    const strict = bucket.assuming(capabilities, 'believed');
    this.#store = new LeaseStore(strict);
    this.#others = new OtherLeases(this.#store, bucket, this.#services.keys, this.#termMs);
    const text = await readFile(this.#owner.file, 'utf8').catch(() => undefined);
    if (text === undefined) return 'none';
    const own = this.#lease(noted.parse(JSON.parse(text)).id);
    if (!(await own.resume(deadline))) return 'lost';
    this.#own = own;
    this.#hasFormer = true;
    own.keep();
    return 'kept';
  }

  /**
   * What a process before has left is staged. Its lease ends when all of it is uploaded, unless
   * guests have their locks still.
   */
  settle(): void {
    if (this.#own === undefined || this.#settling !== undefined) return;
    this.#settling = this.#endFormer(this.#own).finally(() => (this.#settling = undefined));
  }

  async #endFormer(own: OwnLease): Promise<void> {
    while (!this.#isClosed && !own.isLost && this.#held.size === 0) {
      try {
        await this.#owner.flush();
        await own.end(this.#deadline());
      } catch {
        await Deadline.never.sleep(AGAIN_MS);
        continue;
      }
      this.#own = undefined;
      await unlink(this.#owner.file).catch(() => undefined);
      break;
    }
    this.#hasFormer = false;
  }

  get #termMs(): number {
    return this.#services.options.leaseTerm * 1000;
  }

  #deadline(context?: Context): Deadline {
    return Deadline.after(this.#services.options.operationTimeout, context?.signal);
  }

  #lease(id?: string): OwnLease {
    const { keys } = this.#services;
    const own: OwnLease = new OwnLease(
      this.#store!,
      (of) => mountKey(keys, of),
      this.#termMs,
      () => this.#lose(own),
      id,
    );
    return own;
  }

  ticket(): OwnLease | undefined {
    if (this.#lost.size > 0 || this.#abandoning !== undefined) throw new S3Failure('refused', 0, LEASE_LOST);
    return this.#held.size > 0 || this.#hasFormer ? this.#own : undefined;
  }

  /**
   * To be called before what guests may do under their locks.
   * @param isChange whether it changes something
   * @throws EIO where a lease is lost whose locks guests have not given up.
   */
  check(isChange: boolean, context?: Context): Awaitable<void> {
    if (isChange && this.#lost.size > 0) throw FsError.of('EIO');
    if (isChange && this.#abandoning !== undefined) return this.#abandoning;
    if (this.#held.size === 0 || this.#own?.isValid !== false) return;
    return this.#confirm(this.#own, this.#deadline(context));
  }

  /** @throws EIO where it is lost. */
  async #confirm(own: OwnLease, deadline: Deadline): Promise<void> {
    try {
      await own.renew(deadline);
    } catch (error) {
      throw isLost(error) ? FsError.of('EIO') : error;
    }
  }

  /** As {@link Backend.lock}. */
  lock(node: FileNode, hold: LockHold, isWaiting: boolean, context: Context | undefined): Awaitable<void> {
    const held = this.#held.get(node);
    if (hold === LockHold.NONE && held === undefined) return this.#giveUpLost(node);
    if (this.#lost.size > 0) throw FsError.of('EIO');
    if (held !== undefined && hold < held.hold && !held.isLeaving) return this.#lower(node, held, hold);
    // What is being given up is given up first.
    if (held?.isLeaving === true && this.#leavingAll !== undefined)
      return this.#leavingAll.then(() => this.lock(node, hold, isWaiting, context));
    if (held !== undefined && hold <= held.hold) {
      held.isLeaving = false;
      return this.#own?.isValid === true ? undefined : this.check(true, context);
    }
    // Nobody else can get at it.
    if (node.removed) return;
    return this.#raise(node, hold, isWaiting, context);
  }

  /** A guest has given a lock up that was lost, and hears of it. @throws EIO */
  #giveUpLost(node: FileNode): void {
    if (!this.#lost.delete(node)) return;
    if (this.#lost.size === 0)
      this.#services.log.info({}, 'guests have given up all locks of the lost lease');
    throw FsError.of('EIO');
  }

  /** @throws EAGAIN where another mount holds it. */
  async #raise(
    node: FileNode,
    hold: LockHold,
    isWaiting: boolean,
    context: Context | undefined,
  ): Promise<void> {
    const deadline = this.#deadline(context);
    // Those whose guests went on have their locks still.
    if (context !== undefined && this.#settling !== undefined) await deadline.wait(this.#settling);
    if (this.#abandoning !== undefined) await deadline.wait(this.#abandoning);
    const own = await this.#begun(deadline);
    // What was written before is not under the lock.
    await deadline.wait(this.#owner.flush());
    const path = pathOf(node);
    const key = fileKey(this.#services.keys, path);
    try {
      await this.#enter(own, key, path, hold, isWaiting, deadline);
      if (!own.isValid) await this.#confirm(own, deadline);
    } catch (error) {
      if (!isBusy(error)) this.#mayHold(node, key, hold, own);
      throw error;
    }
    // It may have been lost while the last answer came.
    if (this.#own !== own) throw FsError.of('EIO');
    this.#held.set(node, { key, hold, isLeaving: false });
    this.freshSince = performance.now();
    own.keep();
  }

  /** The request was given up, or failed: the file may be held all the same. */
  #mayHold(node: FileNode, key: string, hold: LockHold, own: OwnLease): void {
    if (this.#own !== own) return;
    // More than is needed goes with the rest.
    this.#held.set(node, { key, hold, isLeaving: !this.#held.has(node) });
    own.keep();
    this.#leaveAgain();
  }

  /** The lease of this mount, which is valid for a while. */
  async #begun(deadline: Deadline): Promise<OwnLease> {
    const own = this.#own;
    if (own?.isFresh === true) return own;
    try {
      await own?.renew(deadline);
      if (own !== undefined) return own;
    } catch (error) {
      if (!isLost(error)) throw error;
      // Nothing was held: somebody may have cleared its record away.
      if (this.#lost.size > 0) throw FsError.of('EIO');
      if (this.#abandoning !== undefined) await deadline.wait(this.#abandoning);
    }
    return deadline.wait((this.#beginning ??= this.#begin()));
  }

  async #begin(): Promise<OwnLease> {
    try {
      const own = this.#lease();
      await own.renew(this.#deadline());
      // Before anything is held: the next process must know what this one has left.
      const file = await open(this.#owner.file, 'w', 0o600);
      try {
        await file.writeFile(JSON.stringify({ version: 1, id: own.id }));
        await file.sync();
      } finally {
        await file.close();
      }
      this.#own = own;
      return own;
    } finally {
      this.#beginning = undefined;
    }
  }

  async #enter(
    own: OwnLease,
    key: string,
    path: string,
    hold: LockHold,
    isWaiting: boolean,
    deadline: Deadline,
  ): Promise<void> {
    const exclusive = hold === LockHold.EXCLUSIVE;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      const stored = await this.#store!.read(key, fileRecord, deadline);
      const { holders, waiting } = stored?.record ?? EMPTY;
      const over = new Set<string>();
      let isTaken = false;
      for (const holder of holders) {
        if (holder.mount === own.id || (!exclusive && !holder.exclusive)) continue;
        if (await this.#others!.isOver(holder.mount, deadline)) over.add(holder.mount);
        else isTaken = true;
      }
      const [first] = waiting;
      const isTurn = first === undefined || first === own.id || !isWaiting;
      const isPassed = !isTurn && this.#wasLong(key, stored!.etag);
      if (isTaken || (!isTurn && !isPassed)) {
        if (isWaiting && !waiting.includes(own.id) && waiting.length < WAITING_MAX) {
          const next = { path, holders, waiting: [...waiting, own.id] };
          await this.#store!.write<FileRecord>(key, next, stored, deadline);
        }
        throw FsError.of('EAGAIN');
      }
      const others = holders.filter(({ mount }) => mount !== own.id && !over.has(mount));
      const next = {
        path,
        holders: [...others, { mount: own.id, exclusive }],
        waiting: waiting.filter((mount) => mount !== own.id && !(isPassed && mount === first)),
      };
      if ((await this.#store!.write<FileRecord>(key, next, stored, deadline)) !== undefined) return;
    }
    throw FsError.of('EAGAIN');
  }

  /** Whether a file's record has been the same for so long that whoever is next does not come. */
  #wasLong(key: string, etag: string): boolean {
    const now = performance.now();
    const before = this.#turns.get(key);
    if (before?.etag === etag) return now - before.since >= TURN_MS;
    this.#turns.delete(key);
    this.#turns.set(key, { etag, since: now });
    if (this.#turns.size > TURNS_MAX) this.#turns.delete(this.#turns.keys().next().value!);
    return false;
  }

  /** @throws EIO where it can't be given up yet, or what was held is lost. */
  async #lower(node: FileNode, held: Held, hold: LockHold): Promise<void> {
    try {
      await this.#leave(node, held, hold);
    } catch (error) {
      if (this.#held.get(node) !== held) return this.#giveUpLost(node);
      held.isLeaving = hold === LockHold.NONE;
      this.#services.log.warn(
        { path: pathOf(node), error: String(error) },
        'a lock is kept from other mounts, since what was written under it is not uploaded yet',
      );
      this.#leaveAgain();
      throw FsError.of('EIO');
    }
  }

  async #leave(node: FileNode, held: Held, hold: LockHold): Promise<void> {
    const own = this.#own!;
    await this.#owner.flush();
    for (let attempt = 1; ; attempt++) {
      // The lease is lost, and with it what was held.
      if (this.#held.get(node) !== held) throw new S3Failure('refused', 0, LEASE_LOST);
      const deadline = this.#deadline();
      const stored = await this.#store!.read(held.key, fileRecord, deadline);
      if (stored === undefined) break;
      const { path, holders, waiting } = stored.record;
      const others = holders.filter(({ mount }) => mount !== own.id);
      if (hold === LockHold.SHARED) others.push({ mount: own.id, exclusive: false });
      const next = { path, holders: others, waiting };
      if ((await this.#store!.write<FileRecord>(held.key, next, stored, deadline)) !== undefined) break;
      if (attempt === ATTEMPTS) throw new S3Failure('transient', 0, 'Contention');
    }
    held.hold = hold;
    if (hold !== LockHold.NONE) return;
    this.#held.delete(node);
    if (this.#held.size === 0) own.rest();
  }

  #leaveAgain(): void {
    if (this.#again !== undefined || this.#isClosed) return;
    this.#again = setTimeout(() => {
      this.#leavingAll = this.#leaveAll().finally(() => (this.#leavingAll = undefined));
    }, AGAIN_MS);
    this.#again.unref();
  }

  async #leaveAll(): Promise<void> {
    for (const [node, held] of this.#held) {
      if (held.isLeaving) await this.#leave(node, held, LockHold.NONE).catch(() => undefined);
    }
    this.#again = undefined;
    if ([...this.#held.values()].some(({ isLeaving }) => isLeaving)) this.#leaveAgain();
  }

  #lose(own: OwnLease): void {
    if (this.#own === own) this.#own = undefined;
    if (this.#held.size === 0 && !this.#hasFormer) return;
    this.#hasFormer = false;
    const { log, metrics } = this.#services;
    const nodes = [...this.#held.keys()];
    for (const [node, { isLeaving }] of this.#held) if (!isLeaving) this.#lost.add(node);
    this.#held.clear();
    metrics.lostLeases += 1;
    log.error({ files: nodes.length, paths: nodes.slice(0, PATHS_MAX).map(pathOf) }, LOST);
    this.#abandoning = this.#owner
      .abandon()
      .catch((error: unknown) => log.error({ error: String(error) }, 'data could not be kept aside'))
      .finally(() => (this.#abandoning = undefined));
  }

  /** Ends service, when everything is uploaded that can be. */
  async stop(isAllUploaded: boolean): Promise<void> {
    await this.close();
    const own = this.#own;
    const isNeeded = [...this.#held.values()].length > 0 || !isAllUploaded;
    if (own === undefined || isNeeded) return;
    try {
      await own.end(this.#deadline());
      await this.#services.bucket.remove(mountKey(this.#services.keys, own.id), this.#deadline());
      await unlink(this.#owner.file);
    } catch (error) {
      this.#services.log.warn({ error: String(error) }, 'the lease of this mount ends by itself');
    }
  }

  /** Ends service here: the next process goes on with the lease. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#again);
    this.#own?.rest();
    await this.#abandoning;
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof FsError && error.code === 'EAGAIN';
}

function isLost(error: unknown): boolean {
  return error instanceof S3Failure && error.code === LEASE_LOST;
}
