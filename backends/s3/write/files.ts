import { randomUUID } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { FileType, FsError } from '../../../core/backend/index.js';
import type { GuestBuffer } from '../../../core/backend/index.js';
import { pause } from '../../../core/backend/pauses.js';
import type { Posix, RemoteObject } from '../objects/attributes.js';
import { parse, WRITE_MARK } from '../objects/attributes.js';
import { takeBuffer, returnBuffer } from '../client/buffers.js';
import type { Content, Head } from '../client/bucket-types.js';
import { deferred, parallel, Semaphore } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import type { DiskSpace } from '../journal/disk-space.js';
import { isFull } from '../journal/disk-space.js';
import type { Intents } from '../journal/intents.js';
import { LEASE_LOST } from '../leases/own-lease.js';
import { learnFile, pathOf, unlearn } from '../tree/nodes.js';
import type { FileNode, Version } from '../tree/nodes.js';
import { COPIED_AT_ONCE_BYTES, isChanged, Stream } from '../read/reader.js';
import type { Services } from '../service/services.js';
import { REWRITTEN_SUFFIX, Staged } from '../journal/staged.js';
import { contentFor, contentOf, copyAs, NOT_NEEDED, PartUpload, uploadSnapshot } from './upload.js';
import { Losses } from './losses.js';
import { Writeback } from './writeback.js';

/** How often one upload replaces what other writers wrote meanwhile. */
const OVERTAKES_MAX = 3;
/** Milliseconds after which a change that the full disk has refused is tried again. */
const FULL_PAUSE_MS = 200;

const CONFLICT = 'another writer changed the object: ours is kept aside; see "virtiofs-kit s3 status"';
const UNDER_LOST_LEASE =
  'this was written under a lease that was lost: it is kept aside; see "virtiofs-kit s3 status"';
const OVERTAKEN = 'another writer changed the object: ours replaces it, as the options say';

/** Ended journals are removed from the list each time it has a multiple of this length. */
const SWEEP_JOURNALS = 256;

/** An open file. */
export interface OpenFile {
  readonly node: FileNode;
  /** The version at open. If the node has another one now, another writer has replaced the file. */
  readonly version: Version;
  readonly stream: Stream;
  readonly append: boolean;
  /** Whether something was written through it. */
  changed: boolean;
}

/** What a handle gets whose file another version has replaced. */
export function outdated({ version }: OpenFile): FsError {
  return FsError.of(version.isLost === true ? 'EIO' : 'ESTALE');
}

/** What files ask of the mount that they are part of. */
export interface FilesOwner {
  /** A file has nothing staged any more. */
  clean(node: FileNode): void;
  /** What a process that follows must know of a file is something else now. */
  changed(node: FileNode): void;
  /** Frees bytes of the disk that are not the journal's. @returns whether it could. */
  free(bytes: number): Promise<boolean>;
}

/**
 * The content of files: reads through staged data to the bucket, stages changes, and uploads them.
 */
export class Files {
  readonly writeback: Writeback;
  readonly losses: Losses;
  readonly #services: Services;
  readonly #folder: string;
  readonly #uploads: Semaphore;
  /** Multipart uploads in progress, by journal. */
  readonly #parts = new Map<Staged, PartUpload>();
  readonly #intents: Intents;
  readonly #owner: FilesOwner;
  #paused: Promise<void> | undefined;
  /** Open journals; ended ones are removed now and then. */
  readonly #journals = new Set<Staged>();
  #closed = false;

  /**
   * @param folder of the cache: `staging` has the journals, `conflicts` those kept aside
   * @param space of the disk with the folder
   */
  constructor(services: Services, folder: string, intents: Intents, space: DiskSpace, owner: FilesOwner) {
    this.#intents = intents;
    this.#owner = owner;
    this.#services = services;
    this.#folder = folder;
    this.losses = new Losses(join(folder, 'conflicts'));
    this.#uploads = new Semaphore(services.options.uploads);
    const { options, log } = services;
    const commit = (node: FileNode): Promise<void> => this.commit(node, Deadline.never);
    this.writeback = new Writeback(options, log, space, commit, (bytes) => owner.free(bytes));
  }

  /**
   * Prevents new uploads while a directory above them moves.
   * @returns a function that lets them go on.
   */
  pauseUploads(): () => void {
    const gate = deferred<void>();
    this.#paused = gate.promise;
    return () => {
      this.#paused = undefined;
      gate.resolve();
    };
  }

  #logPath(id: string): string {
    return join(this.#folder, 'staging', `${id}.log`);
  }

  open(node: FileNode, append: boolean): OpenFile {
    node.opens += 1;
    if (node.opens === 1) {
      node.pinned = node.version;
      this.#owner.changed(node);
    }
    return { node, version: node.version, stream: new Stream(), append, changed: false };
  }

  /** An open file is closed. */
  closed({ node }: OpenFile): void {
    node.opens -= 1;
    if (node.opens > 0) return;
    node.pinned = undefined;
    if (!node.removed) this.#owner.changed(node);
  }

  /** @returns the bytes read. */
  async read(file: OpenFile, buffer: GuestBuffer, offset: number, deadline: Deadline): Promise<number> {
    const { node } = file;
    for (;;) {
      if (file.version.isLost === true) throw outdated(file);
      const { object } = file.version;
      const size = file.version === node.version ? node.size : (object?.size ?? 0);
      const end = Math.min(size, offset + buffer.length);
      if (offset >= end) return 0;
      try {
        await this.#readRange(file, buffer, offset, end, deadline);
        return end - offset;
      } catch (error) {
        if (!isChanged(error)) throw error;
        // Our own upload replaces the object a moment before its answer arrives.
        if (node.uploading !== undefined) await deadline.wait(node.uploading.catch(() => undefined));
        if (file.version.object === object) throw FsError.of('ESTALE');
      }
    }
  }

  async #readRange(
    file: OpenFile,
    buffer: GuestBuffer,
    start: number,
    end: number,
    deadline: Deadline,
  ): Promise<void> {
    const { reader } = this.#services;
    const put = (at: number, bytes: Uint8Array): void => buffer.put(at - start, bytes);
    const staged = file.version === file.node.version ? file.node.staged : undefined;
    if (staged === undefined) {
      const { object } = file.version;
      if (object === undefined) throw FsError.of('ESTALE');
      await reader.read(object, start, end, file.stream, deadline, put);
      return;
    }
    await staged.using(async () => {
      const { base, baseLimit } = staged;
      for (const piece of staged.pieces(start, end)) {
        if (piece.source === 'log') {
          const bytes = takeBuffer(piece.end - piece.start);
          await staged.log.read(piece.position, bytes);
          for (let at = 0; at < bytes.length; at += COPIED_AT_ONCE_BYTES) {
            if (bytes.length > COPIED_AT_ONCE_BYTES) await pause();
            put(piece.start + at, bytes.subarray(at, at + COPIED_AT_ONCE_BYTES));
          }
          returnBuffer(bytes);
          continue;
        }
        const stop =
          piece.source === 'gap' ? Math.max(piece.start, Math.min(piece.end, baseLimit)) : piece.start;
        if (base !== undefined && stop > piece.start) {
          await reader.read(base, piece.start, stop, file.stream, deadline, put);
        }
        buffer.zero(stop - start, piece.end - stop);
      }
    });
  }

  /** @returns the bytes written, which is all. */
  async write(
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    fixed: boolean,
    deadline: Deadline,
  ): Promise<number> {
    this.#current(file);
    const { node } = file;
    const { length } = buffer;
    const appends = file.append && !fixed;
    this.#within((appends ? (node.staged?.appendAt ?? node.size) : offset) + length);
    file.changed = true;
    const payload = takeBuffer(length);
    buffer.get(0, payload);
    await this.#change(node, length, deadline, (staged) => {
      const at = appends ? staged.appendAt : offset;
      this.#within(at + length);
      return staged.write(at, payload);
    });
    returnBuffer(payload);
    this.#sendParts(node);
    return length;
  }

  /** @throws EFBIG, where a file would end behind the largest size. */
  #within(end: number): void {
    if (end > this.#services.options.maxFile) throw FsError.of('EFBIG');
  }

  /** Writes bytes that no guest has sent. They must not change before the promise resolves. */
  async put(node: FileNode, offset: number, bytes: Uint8Array, deadline: Deadline): Promise<void> {
    await this.#change(node, bytes.length, deadline, (staged) => staged.write(offset, bytes));
  }

  /** @throws ESTALE if another writer has replaced the file since it was opened, or EIO. */
  #current(file: OpenFile): void {
    if (file.version !== file.node.version) throw outdated(file);
  }

  /** Uploads parts of a large file while a writer goes from the start to the end. */
  #sendParts(node: FileNode): void {
    const { staged } = node;
    if (staged === undefined || staged.isCompacting) return;
    if (node.removed || node.uploading !== undefined) return;
    if (staged.sequentialEnd <= 2 * this.#services.options.partSize) return;
    let parts = this.#parts.get(staged);
    if (parts === undefined) {
      parts = new PartUpload(this.#services, staged, this.#services.keys.file(pathOf(node)));
      this.#parts.set(staged, parts);
    }
    parts.advance(staged.sequentialEnd);
  }

  async resize(node: FileNode, size: number, deadline: Deadline): Promise<void> {
    await this.#change(node, 0, deadline, (staged) => staged.resize(size));
  }

  /** Zeroes a range within the file. */
  async zero(node: FileNode, offset: number, length: number, deadline: Deadline): Promise<void> {
    await this.#change(node, 0, deadline, (staged) => staged.zero(offset, length));
  }

  async setPosix(node: FileNode, deadline: Deadline, change: (posix: Posix) => Posix): Promise<void> {
    await this.#change(node, 0, deadline, (staged) => staged.setPosix(change(staged.posix)));
  }

  /**
   * Runs a change on the file's journal, which is created if there is none. A full disk is waited
   * for: uploads make room.
   * @param length bytes of data that the change takes
   * @throws ENOSPC if no room came until the deadline.
   */
  async #change(
    node: FileNode,
    length: number,
    deadline: Deadline,
    change: (staged: Staged) => Promise<void>,
  ): Promise<void> {
    for (;;) {
      // Where there is room the change begins in this turn, before whatever the guest asks next.
      const waiting = this.writeback.room(length, deadline);
      if (waiting !== undefined) await waiting;
      let staged: Staged;
      try {
        staged = await this.#changeOnce(node, change);
      } catch (error) {
        // Somebody else has filled the disk.
        if (!isFull(error)) throw error;
        if (deadline.remaining === 0) throw FsError.of('ENOSPC');
        await this.#owner.free(length);
        await deadline.sleep(Math.min(FULL_PAUSE_MS, deadline.remaining));
        continue;
      }
      if (staged.wasteful && node.uploading === undefined) await this.#compact(node, staged);
      return;
    }
  }

  /** @returns the journal that has the change. */
  async #changeOnce(node: FileNode, change: (staged: Staged) => Promise<void>): Promise<Staged> {
    if (node.isDropped) throw FsError.of('ESTALE');
    while (node.staged === undefined) {
      node.staging ??= this.#begin(node).finally(() => (node.staging = undefined));
      await node.staging;
    }
    // The journal counts the change in this turn, so that nobody ends the journal before.
    const { staged } = node;
    await change(staged);
    node.posix = staged.posix;
    if (!node.removed) this.writeback.touched(node);
    return staged;
  }

  async #begin(node: FileNode): Promise<void> {
    await node.changes.run(async () => {
      if (node.staged !== undefined) return;
      this.#services.bucket.expectWrite();
      const id = randomUUID();
      const { object } = node.version;
      const known = await this.attributes(node);
      // Where links are shown as files, one that is written is a file.
      node.posix = { ...known, mode: (node.posix.mode & FileType.MASK) | (known.mode & 0o7777) };
      const condition = object === undefined ? 'absent' : { etag: object.etag };
      const path = node.removed ? undefined : pathOf(node);
      if (this.#closed) throw FsError.of('EIO');
      this.attachJournal(
        node,
        await Staged.begin(this.#logPath(id), id, path, node.posix, object, condition),
      );
      if (node.removed) this.#owner.changed(node);
    });
  }

  /**
   * The attributes of a file, before they are written with it. With attributes from listings alone
   * nobody has asked for them yet.
   */
  async attributes(node: FileNode): Promise<Posix> {
    const { bucket, options, defaults } = this.#services;
    const { object } = node.version;
    // HEAD gives headers of every object.
    const isKnown = options.attributes === 'posix' || Object.keys(node.posix.headers).length > 0;
    if (isKnown || object === undefined) return node.posix;
    const head = await bucket.head(object.key, Deadline.after(options.operationTimeout));
    if (head?.etag !== object.etag) return node.posix;
    return parse(head.metadata, head.headers, false, head.modified, defaults);
  }

  /** Attaches a journal to a file. */
  attachJournal(node: FileNode, staged: Staged): void {
    node.staged = staged;
    this.#journals.add(staged);
    if (this.#closed) void staged.close();
    if (this.#journals.size % SWEEP_JOURNALS === 0) {
      for (const journal of this.#journals) if (journal.isEnded) this.#journals.delete(journal);
    }
  }

  /**
   * Creates the journal of a file that the bucket does not have. Look-ups that find nothing there
   * leave the file its name from here on.
   */
  async create(node: FileNode, deadline: Deadline): Promise<void> {
    node.staging = this.#beginWithRoom(node, deadline).finally(() => (node.staging = undefined));
    await node.staging;
    this.writeback.touched(node);
  }

  async #beginWithRoom(node: FileNode, deadline: Deadline): Promise<void> {
    await this.writeback.room(0, deadline);
    await this.#begin(node);
  }

  /** The change is made by now: that a journal cannot be rewritten does not make it fail. */
  async #compact(node: FileNode, staged: Staged): Promise<void> {
    await node.changes.run(async () => {
      if (node.staged !== staged || !staged.wasteful || staged.pending > 0 || this.#parts.has(staged)) return;
      // Only its log knows of the object that must be deleted.
      if (node.pendingDelete !== undefined) return;
      const path = node.removed ? undefined : pathOf(node);
      try {
        await staged.compact(path, `${this.#logPath(staged.id)}${REWRITTEN_SUFFIX}`);
      } catch (error) {
        const journal = staged.log.path;
        this.#services.log.warn({ journal, error: String(error) }, 'a journal could not be made smaller yet');
      }
    });
  }

  /**
   * Resolves when the bucket has everything that was staged at the time of the call.
   * @param isHeard whether the program that changed the file hears of the failure
   * @throws ESTALE if another writer came first; the data is kept aside.
   */
  async commit(node: FileNode, deadline: Deadline, isHeard = false): Promise<void> {
    const { staged } = node;
    if (staged === undefined || node.removed) return;
    if (isHeard) staged.listeners += 1;
    try {
      await this.#commit(node, staged, deadline);
    } finally {
      if (isHeard) staged.listeners -= 1;
    }
  }

  async #commit(node: FileNode, staged: Staged, deadline: Deadline): Promise<void> {
    const target = staged.sequence;
    while (node.staged === staged && staged.committedSequence < target && !node.removed) {
      await this.#paused;
      node.uploading ??= node.changes
        .run(() => this.#uploads.run(() => this.uploadNow(node)))
        .finally(() => (node.uploading = undefined));
      try {
        await deadline.wait(node.uploading);
      } catch (error) {
        if (!isNotNeeded(error)) throw error;
        // What ended it comes first; then it is known whether the file is to go up elsewhere.
        await deadline.wait(node.changes.run(async () => undefined));
      }
    }
    if (staged.isLost && staged.committedSequence < target) throw FsError.of('EIO');
  }

  /**
   * Takes a file's name away, alone. An upload of the file ends at its next part: whoever waits
   * here keeps a directory from all other changes.
   */
  taking<T>(node: FileNode, change: () => Promise<T>): Promise<T> {
    const { staged } = node;
    if (staged !== undefined) staged.leavers += 1;
    return node.changes.run(() => {
      if (staged !== undefined) staged.leavers -= 1;
      return change();
    });
  }

  /** As {@link Files.uploadNow}, unless the file's name is about to go. */
  async uploadIfNeeded(node: FileNode): Promise<void> {
    try {
      await this.uploadNow(node);
    } catch (error) {
      if (!isNotNeeded(error)) throw error;
    }
  }

  /**
   * Uploads what is staged. The caller holds `node.changes`.
   * @param overtakes how often what is at the key may be replaced: a write of ours that was given
   * up, or by `conflicts` another writer's
   * @throws ESTALE if another writer came first.
   */
  async uploadNow(node: FileNode, overtakes = OVERTAKES_MAX): Promise<void> {
    const { staged } = node;
    if (staged === undefined) return;
    try {
      await this.#upload(node);
    } catch (error) {
      if (error instanceof S3Failure && error.code === LEASE_LOST) {
        await this.#keepAside(node, staged, UNDER_LOST_LEASE);
        throw FsError.of('EIO');
      }
      if (!isChanged(error)) throw error;
      const { bucket, keys, options } = this.#services;
      const key = keys.file(pathOf(node));
      const head = await bucket.head(key, Deadline.after(options.operationTimeout));
      if (await rebaseOnOwn(staged, head)) {
        node.version.object = staged.base;
        return this.uploadNow(node, overtakes);
      }
      const isGivenUp = head !== undefined && bucket.isGivenUp(head);
      const mayReplace = overtakes > 0 && (isGivenUp || options.conflicts === 'last-wins');
      if (mayReplace && (await this.#overtake(node, staged, head, isGivenUp)))
        return this.uploadNow(node, overtakes - 1);
      this.#services.metrics.conflicts += 1;
      await this.#keepAside(node, staged, CONFLICT);
      throw FsError.of('ESTALE');
    }
  }

  /**
   * Checks whether the object at the key is an earlier upload of this journal whose answer was
   * lost. If so, the next upload is based on it.
   */
  async recogniseOwnUpload(staged: Staged, key: string): Promise<boolean> {
    const { bucket, options } = this.#services;
    const head = await bucket.head(key, Deadline.after(options.operationTimeout));
    return rebaseOnOwn(staged, head);
  }

  async #upload(node: FileNode): Promise<void> {
    const { staged, parent } = node;
    if (staged === undefined || parent === undefined || node.removed) return;
    const { pendingDeletes, keys, options } = this.#services;
    for (const key of new Set([node.pendingDelete, keys.file(pathOf(node))])) {
      if (key !== undefined) await pendingDeletes.settled(key, Deadline.after(options.operationTimeout));
    }
    const parts = this.#parts.get(staged);
    this.#parts.delete(staged);
    const snapshot = staged.snapshot();
    const key = keys.file(pathOf(node));
    staged.attempted = true;
    const { object, attributed } = await uploadSnapshot(this.#services, staged, snapshot, key, parts);
    staged.attempted = false;
    this.#services.metrics.uploads += 1;
    node.version.object = object;
    node.checked = performance.now();
    // Before the journal ends: until then a process that follows finds this out by it.
    if (node.opens > 0) this.#owner.changed(node);
    learnFile(parent, node.name, object, snapshot.posix);
    if (attributed && staged.isStill(snapshot)) {
      node.staged = undefined;
      this.writeback.clean(node);
      await staged.retire();
      this.#owner.clean(node);
    } else {
      await staged.committed(snapshot, object, attributed);
      this.writeback.clean(node);
      this.writeback.touched(node);
    }
  }

  /**
   * Makes what is at the key now the condition of the next upload, which replaces it.
   * @param isGivenUp whether that is an earlier write of this mount's, which came after all.
   * @returns false where bytes are missing that only the version before had.
   */
  async #overtake(
    node: FileNode,
    staged: Staged,
    head: Head | undefined,
    isGivenUp: boolean,
  ): Promise<boolean> {
    const path = pathOf(node);
    // A change of attributes alone goes to whatever another writer has put there.
    const isApplied =
      this.#services.options.conflicts === 'last-wins' &&
      head?.size === staged.size &&
      !staged.changesContent;
    if (!staged.isWhole && !isApplied) return false;
    const condition = head === undefined ? 'absent' : { etag: head.etag };
    await staged.place(path, isApplied ? head : undefined, condition);
    if (isApplied) node.version.object = head;
    if (!isGivenUp) this.#services.log.warn({ path }, OVERTAKEN);
    return true;
  }

  /** Keeps aside all that is staged, since it was written under a lease that is lost. */
  async abandon(): Promise<void> {
    await parallel(this.writeback.files, this.#services.options.uploads, (node) =>
      node.changes.run(async () => {
        const { staged } = node;
        if (staged === undefined || node.removed) return;
        const parts = this.#parts.get(staged);
        this.#parts.delete(staged);
        await this.#keepAside(node, staged, UNDER_LOST_LEASE);
        // Whether the bucket can be reached now is not waited for.
        parts?.abort().catch(() => undefined);
      }),
    );
  }

  /**
   * The journal becomes a file that `s3 status` shows, and open handles become stale.
   * @param reason for the log
   */
  async #keepAside(node: FileNode, staged: Staged, reason: string): Promise<void> {
    const path = pathOf(node);
    this.losses.add(path, staged.listeners > 0);
    node.staged = undefined;
    if (reason === UNDER_LOST_LEASE) {
      staged.isLost = true;
      node.version.isLost = true;
    }
    node.version = { object: undefined };
    node.checked = Number.NEGATIVE_INFINITY;
    if (node.parent !== undefined) unlearn(node.parent, node.name);
    this.writeback.clean(node);
    await staged.close();
    const aside = join(this.losses.folder, `${staged.id}.log`);
    await rename(staged.log.path, aside);
    this.#services.log.error({ path, aside }, reason);
  }

  /**
   * Keeps the content of an open file whose object is about to be deleted: what only the bucket has
   * is copied to a key of our own. The caller holds `node.changes`.
   * @returns a function that undoes it, in case the object stays.
   */
  async preserve(node: FileNode): Promise<() => Promise<void>> {
    const { staged } = node;
    await this.#abandonParts(staged);
    const { object } = node.version;
    const needed = staged === undefined || (staged.base !== undefined && staged.baseLimit > 0);
    if (node.opens === 0 || !needed || object === undefined || object.size === 0)
      return async () => undefined;
    const key = this.#services.keys.reserved(`open-${randomUUID()}`);
    node.hiddenIntent = await this.#intents.begin({ type: 'hidden', key });
    const copy = await copyAs(this.#services, object, key, await this.#hiddenContent(node, object));
    const use = (source: RemoteObject): void => {
      node.version.object = source;
      if (staged !== undefined) staged.base = source;
    };
    node.hidden = key;
    node.original = object;
    use(copy);
    return async () => {
      use(object);
      await this.#dropHidden(node);
    };
  }

  /** Nobody is granted a file that has no name any more, and nothing may keep it from going. */
  async #hiddenContent({ posix }: FileNode, { key }: RemoteObject): Promise<Content> {
    const { bucket, options } = this.#services;
    const content = contentOf(posix, 'open');
    const encryption = await bucket.encryption(key, Deadline.after(options.operationTimeout));
    return { ...content, headers: { ...content.headers, ...encryption } };
  }

  async #dropHidden(node: FileNode): Promise<void> {
    const { hidden, hiddenIntent } = node;
    node.hidden = undefined;
    node.original = undefined;
    if (hidden === undefined || hiddenIntent === undefined) return;
    await this.#services.bucket.remove(hidden, Deadline.after(this.#services.options.operationTimeout));
    await this.#intents.end(hiddenIntent);
  }

  /** Records that another file has replaced this one. The caller holds `node.changes`. */
  async replaced(node: FileNode): Promise<void> {
    this.writeback.clean(node);
    const { staged } = node;
    if (staged !== undefined) await staged.place(undefined, staged.base, staged.condition);
  }

  async #abandonParts(staged: Staged | undefined): Promise<void> {
    if (staged === undefined) return;
    const parts = this.#parts.get(staged);
    this.#parts.delete(staged);
    await parts?.abort();
  }

  /** Drops the content of a removed file that nobody has open any more. */
  async discard(node: FileNode): Promise<void> {
    const { staged } = node;
    node.isDropped = true;
    node.staged = undefined;
    // Its journal alone knows that the object at its old name must go.
    if (staged !== undefined && node.pendingDelete !== undefined) void this.#retireLater(node, staged);
    else await staged?.retire();
    await this.#dropHidden(node);
  }

  async #retireLater(node: FileNode, staged: Staged): Promise<void> {
    const { pendingDelete = '' } = node;
    await this.#services.pendingDeletes.settled(pendingDelete, Deadline.never);
    // At the end of service it is left to the next start.
    if (node.pendingDelete !== pendingDelete) await staged.retire();
  }

  /**
   * Finds out whether an upload succeeded whose answer was lost, before the file's key is given up.
   * The caller holds `node.changes`.
   */
  async reconcile(node: FileNode): Promise<void> {
    const { staged } = node;
    if (staged?.attempted !== true) return;
    if (await this.recogniseOwnUpload(staged, this.#services.keys.file(pathOf(node))))
      node.version.object = staged.base;
    staged.attempted = false;
  }

  /**
   * Uploads all that was staged at the time of the call.
   * @throws the first error of a file that is still staged.
   */
  async flush(): Promise<void> {
    await parallel(this.writeback.files, this.#services.options.uploads, async (node) => {
      const { staged } = node;
      try {
        await this.commit(node, Deadline.never);
      } catch (error) {
        if (staged !== undefined && node.staged === staged) throw error;
      }
    });
  }

  /** Makes what is staged durable on the local disk. */
  async sync(node: FileNode): Promise<void> {
    const { staged } = node;
    if (staged !== undefined) await staged.using(() => staged.log.sync());
  }

  /** Whether a file can be renamed without transferring content: all of it is in the journal. */
  isLocal(node: FileNode): boolean {
    const { staged } = node;
    if (staged === undefined || this.#parts.has(staged)) return false;
    return staged.base === undefined || staged.base.size === 0;
  }

  /** Writes a new object, for example a symbolic link. @throws EEXIST if the name is taken. */
  async putNew(key: string, body: Uint8Array, posix: Posix, deadline: Deadline): Promise<RemoteObject> {
    try {
      await this.#services.pendingDeletes.settled(key, deadline);
      const content = await contentFor(this.#services, undefined, posix, randomUUID());
      return await this.#services.bucket.put(key, body, content, 'absent', deadline);
    } catch (error) {
      if (error instanceof S3Failure && error.kind === 'precondition') throw FsError.of('EEXIST');
      throw error;
    }
  }

  /** Ends service. Journals stay for the next start. */
  async close(): Promise<void> {
    this.#closed = true;
    this.writeback.close();
    for (const journal of this.#journals) await journal.close();
  }
}

/**
 * Bases the next upload on an object that is an earlier upload of the same journal.
 * @returns whether it is one.
 */
async function rebaseOnOwn(staged: Staged, head: Head | undefined): Promise<boolean> {
  const isOurs = head?.metadata[WRITE_MARK]?.startsWith(`${staged.id}.`) === true;
  if (head === undefined || !isOurs || staged.base?.etag === head.etag) return false;
  await staged.rebase(head);
  return true;
}

function isNotNeeded(error: unknown): boolean {
  return error instanceof S3Failure && error.code === NOT_NEEDED;
}
