import { stat } from 'node:fs/promises';
import type { ContentHeaders, Posix, RemoteObject } from '../objects/attributes.js';
import { format, now, parse } from '../objects/attributes.js';
import type { Condition } from '../client/bucket-types.js';
import { Users } from '../client/concurrency.js';
import { Extents } from './extents.js';
import type { Piece } from './extents.js';
import { RecordType, StagingLog } from './staging-log.js';
import type { FoundRecord } from './staging-log.js';

/** Attributes in JSON: as the bucket's metadata, and what metadata does not contain. */
export interface PosixJson {
  readonly metadata: Record<string, string>;
  readonly headers: Posix['headers'];
}

/** Payload of BEGIN. */
interface BeginJson {
  /** Null: the file has no name. */
  readonly path: string | null;
  readonly base: RemoteObject | null;
  readonly condition: Condition;
  readonly posix: PosixJson;
  readonly size: number;
}

/** An object at an old place of a file. It is deleted only if it is still this version. */
export interface Obsolete {
  readonly key: string;
  readonly etag: string;
}

/**
 * Payload of PLACE. `path` null: the name was removed. `obsolete`: an object to delete. `replaces`:
 * the journal of the file that had the place before.
 */
interface PlaceJson {
  readonly path: string | null;
  readonly base: RemoteObject | null;
  readonly condition: Condition;
  readonly obsolete: Obsolete | null;
  readonly replaces: string | null;
}

/**
 * Payload of GONE: an obsolete object was deleted. Whatever is at the key later is another object,
 * even with the same ETag.
 */
interface GoneJson {
  readonly key: string;
}

/** Payload of REBASE: the object was made by an upload of this journal whose answer was lost. */
interface RebaseJson {
  readonly object: RemoteObject;
}

/**
 * Payload of COMMIT: the object has the content of the log up to `tail`, when the file's size was
 * `size`.
 */
interface CommitJson {
  readonly object: RemoteObject;
  readonly tail: number;
  readonly size: number;
}

/**
 * Payload of UPLOAD, a multipart upload. `id` null: it is about to be created. `ended`: completed
 * or aborted.
 */
interface UploadJson {
  readonly key: string;
  readonly id: string | null;
  readonly at: number;
  readonly ended: boolean;
}

/**
 * The state of a file at one moment, for an upload. It stays valid while writing goes on, since the
 * log is append-only.
 */
export interface Snapshot {
  readonly extents: Extents;
  readonly size: number;
  readonly base: RemoteObject | undefined;
  readonly baseLimit: number;
  readonly condition: Condition;
  readonly posix: Posix;
  readonly sequence: number;
  readonly contentChanged: boolean;
  /** Position in the log up to which the snapshot has everything. */
  readonly tail: number;
}

const nothing = (): void => {};
const empty = new Uint8Array(0);
/** Smaller logs are not compacted, nor is one that could not be until it has grown by as much. */
const COMPACT_MIN_BYTES = 64 * 2 ** 20;
const COPY_CHUNK_BYTES = 2 ** 20;
/** Of the path of a log that is to replace the one without it, and is not whole yet. */
export const REWRITTEN_SUFFIX = '.new';

/**
 * The changes of one file that the bucket does not have: extents in a log, over a base object of
 * which the first `baseLimit` bytes still count. Each change is appended to the log first and then
 * takes effect.
 */
export class Staged {
  readonly id: string;
  log: StagingLog;
  posix: Posix;
  /** The object with the bytes between the extents. */
  base: RemoteObject | undefined;
  /** The state of the key that the next upload requires. */
  condition: Condition;
  extents = new Extents();
  size: number;
  baseLimit: number;
  /** Counts changes. An upload that does not have all of them is followed by another. */
  sequence = 1;
  /** Sequence of the last change of content, as opposed to attributes. */
  contentSequence = 0;
  /** Sequence up to which the bucket has the changes. */
  committedSequence = 0;
  /** An upload was started whose outcome is not known. */
  attempted = false;
  /** It was kept aside, since the lease was lost under which it was written. */
  isLost = false;
  /** End of what was written from offset 0 without a jump. */
  sequentialEnd = 0;
  /** Number of changes being appended to the log. */
  pending = 0;
  /** Number of changes that wait to take the file's name away: an upload is in vain. */
  leavers = 0;
  /** Programs that wait for an upload and hear of its failure. */
  listeners = 0;
  /** Offset for the next write of a handle opened to append. */
  appendAt: number;
  /** Called for each range of bytes that changes. */
  onChange: (start: number, end: number) => void = () => undefined;
  #applied = 0;
  /** Smallest size since the last snapshot. */
  #lowWater = Number.POSITIVE_INFINITY;
  readonly #users = new Users();
  /** Resolves when the log was rewritten, or could not be. */
  #compacting: Promise<void> | undefined;
  /** The same, from the time on at which the log is replaced. */
  #replacing: Promise<void> | undefined;
  /** Bytes that a log must have to be compacted. */
  #compactFrom = COMPACT_MIN_BYTES;
  #ended: Promise<void> | undefined;

  private constructor(
    id: string,
    log: StagingLog,
    posix: Posix,
    base: RemoteObject | undefined,
    condition: Condition,
    size: number,
  ) {
    this.id = id;
    this.log = log;
    this.posix = posix;
    this.base = base;
    this.condition = condition;
    this.size = size;
    this.baseLimit = Math.min(base?.size ?? 0, size);
    this.appendAt = size;
  }

  /** Creates the journal of a file. */
  static async begin(
    logPath: string,
    id: string,
    path: string | undefined,
    posix: Posix,
    base: RemoteObject | undefined,
    condition: Condition,
  ): Promise<Staged> {
    const size = base?.size ?? 0;
    const begin: BeginJson = {
      path: path ?? null,
      base: base ?? null,
      condition,
      posix: toJson(posix),
      size,
    };
    const log = await StagingLog.create(logPath);
    try {
      await log.append({ type: RecordType.BEGIN, offset: 0, payload: json(begin) });
    } catch (error) {
      await log.remove();
      throw error;
    }
    const staged = new Staged(id, log, posix, base, condition, size);
    if (base === undefined) staged.contentSequence = 1;
    return staged;
  }

  /** Writes bytes. `payload` must not change before the promise resolves. */
  async write(offset: number, payload: Uint8Array): Promise<void> {
    const end = offset + payload.length;
    this.appendAt = Math.max(this.appendAt, end);
    await this.#change(async () => {
      const position = await this.log.append({ type: RecordType.DATA, offset, payload });
      this.#apply(position + payload.length);
      this.#written(offset, end, position);
      if (offset === this.sequentialEnd) this.sequentialEnd = end;
      const time = now();
      this.posix = { ...this.posix, mtime: time, ctime: time };
      this.#content(offset, end);
    });
  }

  #written(offset: number, end: number, position: number): void {
    this.extents.insert(offset, end, position);
    this.size = Math.max(this.size, end);
  }

  /** Truncates the file, or extends it by zeros. */
  async resize(size: number): Promise<void> {
    await this.#change(async () => {
      const position = await this.log.append({ type: RecordType.SIZE, offset: size, payload: empty });
      this.#apply(position);
      const old = this.size;
      this.#resized(size);
      const time = now();
      this.posix = { ...this.posix, mtime: time, ctime: time };
      this.#content(Math.min(old, size), Math.max(old, size));
    });
  }

  #resized(size: number): void {
    this.extents.truncate(size);
    this.baseLimit = Math.min(this.baseLimit, size);
    this.#lowWater = Math.min(this.#lowWater, size);
    this.size = size;
    this.appendAt = size;
  }

  /** Zeroes a range. The size stays the same. */
  async zero(offset: number, length: number): Promise<void> {
    await this.#change(async () => {
      const payload = Buffer.alloc(8);
      payload.writeDoubleLE(length);
      const position = await this.log.append({ type: RecordType.ZERO, offset, payload });
      this.#apply(position + payload.length);
      this.extents.insert(offset, Math.min(offset + length, this.size), position, true);
      this.#content(offset, offset + length);
    });
  }

  async setPosix(posix: Posix): Promise<void> {
    await this.#change(async () => {
      const position = await this.log.append({
        type: RecordType.ATTRIBUTES,
        offset: 0,
        payload: json(toJson(posix)),
      });
      this.#apply(position);
      this.posix = posix;
      this.sequence += 1;
    });
  }

  /**
   * Gives the file a new place, or none.
   * @param base the object at the new place with the content of the base; undefined if no byte
   * comes from a base
   * @param obsolete object that the caller is about to delete
   * @param replaces id of the journal of the file that is replaced; it does not count any more
   */
  async place(
    path: string | undefined,
    base: RemoteObject | undefined,
    condition: Condition,
    obsolete?: Obsolete,
    replaces?: string,
  ): Promise<void> {
    const place: PlaceJson = {
      path: path ?? null,
      base: base ?? null,
      condition,
      obsolete: obsolete ?? null,
      replaces: replaces ?? null,
    };
    await this.#change(async () => {
      this.#apply(await this.log.append({ type: RecordType.PLACE, offset: 0, payload: json(place) }));
      this.#placed(base, condition);
    });
  }

  /**
   * Makes an object of an earlier upload of this journal the base. It has the bytes of the former
   * base at the same offsets.
   */
  async rebase(object: RemoteObject): Promise<void> {
    const rebase: RebaseJson = { object };
    await this.#change(async () => {
      this.#apply(await this.log.append({ type: RecordType.REBASE, offset: 0, payload: json(rebase) }));
      this.#rebased(object);
    });
  }

  #rebased(object: RemoteObject): void {
    this.base = object;
    this.condition = { etag: object.etag };
    this.sequence += 1;
  }

  #placed(base: RemoteObject | undefined, condition: Condition): void {
    this.base = base;
    if (base === undefined) this.baseLimit = 0;
    this.condition = condition;
    this.sequence += 1;
    if (base === undefined) this.contentSequence = this.sequence;
  }

  /**
   * Records the start and end of a multipart upload, so that the next start can abort it after a
   * crash.
   */
  async noteUpload(key: string, id: string | undefined, ended: boolean): Promise<void> {
    const upload: UploadJson = { key, id: id ?? null, at: Date.now(), ended };
    await this.log.append({ type: RecordType.UPLOAD, offset: 0, payload: json(upload) });
  }

  /** Records that an obsolete object was deleted. */
  async noteGone(key: string): Promise<void> {
    if (this.isEnded) return;
    const gone: GoneJson = { key };
    await this.using(() => this.log.append({ type: RecordType.GONE, offset: 0, payload: json(gone) }));
  }

  async #change(work: () => Promise<void>): Promise<void> {
    this.pending += 1;
    try {
      if (this.#compacting !== undefined) await this.#compacting;
      await work();
    } finally {
      this.pending -= 1;
      // A change that failed took no place.
      if (this.pending === 0) this.appendAt = this.size;
    }
  }

  #apply(position: number): void {
    this.#applied = Math.max(this.#applied, position);
  }

  #content(start: number, end: number): void {
    this.sequence += 1;
    this.contentSequence = this.sequence;
    this.onChange(start, end);
  }

  /** The current state, for an upload that is committed later. */
  snapshot(): Snapshot {
    this.#lowWater = Number.POSITIVE_INFINITY;
    return this.view();
  }

  /** The current state. */
  view(): Snapshot {
    return {
      extents: this.extents.clone(),
      size: this.size,
      base: this.base,
      baseLimit: this.baseLimit,
      condition: this.condition,
      posix: this.posix,
      sequence: this.sequence,
      contentChanged: this.contentSequence > 0,
      tail: this.#applied,
    };
  }

  /** Whether no byte of the file comes from the base. */
  get isWhole(): boolean {
    if (this.base === undefined) return true;
    for (const { source, start } of this.pieces(0, this.size)) {
      if (source === 'gap' && start < this.baseLimit) return false;
    }
    return true;
  }

  /** Whether bytes have changed, not attributes alone. */
  get changesContent(): boolean {
    return this.contentSequence > 0;
  }

  /** Whether nothing has changed since a snapshot. */
  isStill(snapshot: Snapshot): boolean {
    return this.sequence === snapshot.sequence && this.pending === 0;
  }

  /**
   * Records that the bucket has a snapshot as `object`, while more has changed since.
   * @param attributed whether the object has the snapshot's attributes too.
   */
  async committed(snapshot: Snapshot, object: RemoteObject, attributed: boolean): Promise<void> {
    const commit: CommitJson = { object, tail: snapshot.tail, size: snapshot.size };
    this.#rebase(commit, Math.min(snapshot.size, this.#lowWater));
    if (attributed) this.committedSequence = snapshot.sequence;
    if (this.contentSequence <= snapshot.sequence) this.contentSequence = 0;
    await this.log.append({ type: RecordType.COMMIT, offset: 0, payload: json(commit) });
  }

  #rebase(commit: CommitJson, baseLimit: number): void {
    this.base = commit.object;
    this.baseLimit = baseLimit;
    this.condition = { etag: commit.object.etag };
    this.extents.dropBefore(commit.tail);
  }

  /**
   * The pieces of a range: in the log, zeros, or a gap, which is the base's below `baseLimit` and
   * zeros above.
   */
  pieces(start: number, end: number): readonly Piece[] {
    return [...this.extents.cover(start, end)];
  }

  /**
   * Runs `work`, which reads the log at positions that it looks up itself. The log is neither
   * removed nor replaced before it ends.
   */
  async using<T>(work: () => Promise<T>): Promise<T> {
    if (this.#replacing !== undefined) await this.#replacing;
    return this.#users.run(work);
  }

  /** Ends and deletes the journal: the bucket has everything, or the file is gone. */
  retire(): Promise<void> {
    this.#ended ??= this.#users.gone().then(() => this.log.remove());
    return this.#ended;
  }

  /** Closes the journal and keeps it for the next start. */
  close(): Promise<void> {
    this.#ended ??= this.#users.gone().then(() => this.log.close());
    return this.#ended;
  }

  /** Whether it is retired or closed, or about to be. */
  get isEnded(): boolean {
    return this.#ended !== undefined;
  }

  /** Whether most of a large log is overwritten, so that rewriting it pays. */
  get wasteful(): boolean {
    return this.log.size > this.#compactFrom && this.log.size > 4 * this.extents.live;
  }

  /** Whether the log is being rewritten. */
  get isCompacting(): boolean {
    return this.#compacting !== undefined;
  }

  /**
   * Rewrites the log without overwritten data. Changes wait meanwhile; readers are waited for, and
   * those that come then wait for the new log. There must be no change under way.
   * @throws the system's errors: the log is as it was.
   */
  async compact(path: string | undefined, logPath: string): Promise<void> {
    const rewriting = this.#rewrite(path, logPath);
    this.#compacting = rewriting.then(nothing, nothing);
    try {
      await rewriting;
      this.#compactFrom = COMPACT_MIN_BYTES;
    } catch (error) {
      this.#compactFrom = this.log.size + COMPACT_MIN_BYTES;
      throw error;
    } finally {
      this.#compacting = undefined;
      this.#replacing = undefined;
    }
  }

  async #rewrite(path: string | undefined, logPath: string): Promise<void> {
    const fresh = await StagingLog.create(logPath);
    try {
      await this.#rewriteTo(fresh, path);
    } catch (error) {
      await fresh.remove().catch(nothing);
      throw error;
    }
  }

  async #rewriteTo(fresh: StagingLog, path: string | undefined): Promise<void> {
    const begin: BeginJson = {
      path: path ?? null,
      base: this.base ?? null,
      condition: this.condition,
      posix: toJson(this.posix),
      size: this.baseLimit,
    };
    await fresh.append({ type: RecordType.BEGIN, offset: 0, payload: json(begin) });
    await fresh.append({ type: RecordType.SIZE, offset: this.size, payload: empty });
    const extents = new Extents();
    let applied = 0;
    for (const extent of this.extents) {
      for (let at = extent.start; at < extent.end;) {
        const end = extent.hole ? extent.end : Math.min(extent.end, at + COPY_CHUNK_BYTES);
        const payload = Buffer.allocUnsafe(extent.hole ? 8 : end - at);
        if (extent.hole) payload.writeDoubleLE(end - at);
        else await this.log.read(extent.position + at - extent.start, payload);
        const type = extent.hole ? RecordType.ZERO : RecordType.DATA;
        const position = await fresh.append({ type, offset: at, payload });
        extents.insert(at, end, position, extent.hole);
        applied = position + payload.length;
        at = end;
      }
    }
    const replaced = this.#users.gone().then(() => fresh.replace(this.log));
    this.#replacing = replaced.then(nothing, nothing);
    this.log = await replaced;
    this.extents = extents;
    this.#applied = applied;
  }

  /**
   * Opens a journal after a crash.
   * @returns undefined if not even the first record is complete: nothing was acknowledged then.
   */
  static async recover(logPath: string, id: string): Promise<Recovered | undefined> {
    return Staged.#read(logPath, id, true);
  }

  /** Reads a journal without changing it. The caller must {@link close} it. */
  static async inspect(logPath: string, id: string): Promise<Recovered | undefined> {
    return Staged.#read(logPath, id, false);
  }

  static async #read(logPath: string, id: string, repair: boolean): Promise<Recovered | undefined> {
    const touched = (await stat(logPath)).mtimeMs;
    const log = await StagingLog.open(logPath, !repair);
    const found = new Found();
    let staged: Staged | undefined;
    const unreadable = await log.scan((record) => {
      if (record.type === RecordType.BEGIN) {
        const begin = fields<BeginJson>(record.payload);
        const base = reviveObject(begin.base);
        staged = new Staged(id, log, fromJson(begin.posix), base, begin.condition, begin.size);
        if (base === undefined) staged.contentSequence = 1;
        found.path = begin.path ?? undefined;
      } else if (staged !== undefined) {
        found.note(record);
        staged.#replay(record, found.sizes);
      }
    }, repair);
    if (staged === undefined) {
      if (unreadable === 0) {
        await (repair ? log.remove() : log.close());
        return undefined;
      }
      staged = new Staged(id, log, fromJson({ metadata: {}, headers: {} }), undefined, 'absent', 0);
    }
    if (found.written) {
      const time = { seconds: Math.floor(touched / 1000), nanoseconds: Math.floor((touched % 1000) * 1e6) };
      staged.posix = { ...staged.posix, mtime: time, ctime: time };
    }
    const { path, obsolete, replaces } = found;
    return {
      staged,
      path,
      obsolete,
      replaces,
      uploads: [...found.uploads.values()],
      damaged: unreadable > 0,
      unreadable,
    };
  }

  /** Applies a record of the log. `sizes`: the SIZE records so far. */
  #replay(record: FoundRecord, sizes: readonly { position: number; size: number }[]): void {
    const { type, offset, payload, position } = record;
    this.#apply(position + payload.length);
    this.sequence += 1;
    switch (type) {
      case RecordType.DATA:
        this.#written(offset, offset + payload.length, position);
        this.appendAt = this.size;
        this.contentSequence = this.sequence;
        break;
      case RecordType.SIZE:
        this.#resized(offset);
        this.contentSequence = this.sequence;
        break;
      case RecordType.ZERO: {
        const length = Buffer.from(payload).readDoubleLE();
        this.extents.insert(offset, Math.min(offset + length, this.size), position, true);
        this.contentSequence = this.sequence;
        break;
      }
      case RecordType.ATTRIBUTES:
        this.posix = fromJson(fields<PosixJson>(payload));
        break;
      case RecordType.PLACE: {
        const place = fields<PlaceJson>(payload);
        this.#placed(reviveObject(place.base), place.condition);
        break;
      }
      case RecordType.REBASE:
        this.#rebased(reviveObject(fields<RebaseJson>(payload).object)!);
        break;
      case RecordType.COMMIT: {
        const commit = fields<CommitJson>(payload);
        const object = reviveObject(commit.object)!;
        const later = sizes.filter((change) => change.position >= commit.tail).map((change) => change.size);
        this.#rebase({ ...commit, object }, Math.min(commit.size, ...later));
        break;
      }
      default:
    }
  }
}

/** A journal as found at start. */
export interface Recovered {
  readonly staged: Staged;
  /** Where the file belongs; undefined if it was removed. */
  readonly path: string | undefined;
  /** Objects that were to be deleted. */
  readonly obsolete: readonly Obsolete[];
  /** Ids of journals of files that this one replaced. */
  readonly replaces: readonly string[];
  /** Multipart uploads that may still exist. `id` is undefined if the answer never came. */
  readonly uploads: readonly { readonly key: string; readonly id: string | undefined; readonly at: number }[];
  /** A record in the middle fails its checksum: acknowledged bytes are lost. */
  readonly damaged: boolean;
  /** Bytes of the journal that can not be read for that. */
  readonly unreadable: number;
}

/** What a log contains besides content. */
class Found {
  path: string | undefined;
  obsolete: Obsolete[] = [];
  readonly replaces: string[] = [];
  readonly uploads = new Map<string, { key: string; id: string | undefined; at: number }>();
  readonly sizes: { position: number; size: number }[] = [];
  /** Bytes were written after the last attributes. */
  written = false;

  note({ type, offset, payload, position }: FoundRecord): void {
    switch (type) {
      case RecordType.DATA:
        this.written = true;
        break;
      case RecordType.SIZE:
        this.written = true;
        this.sizes.push({ position, size: offset });
        break;
      case RecordType.ATTRIBUTES:
        this.written = false;
        break;
      case RecordType.PLACE: {
        const place = fields<PlaceJson>(payload);
        this.path = place.path ?? undefined;
        if (place.obsolete !== null) this.obsolete.push(place.obsolete);
        if (place.replaces !== null) this.replaces.push(place.replaces);
        break;
      }
      case RecordType.GONE: {
        const { key } = fields<GoneJson>(payload);
        this.obsolete = this.obsolete.filter((object) => object.key !== key);
        break;
      }
      case RecordType.UPLOAD: {
        const { key, id, at, ended } = fields<UploadJson>(payload);
        if (ended) this.uploads.clear();
        else this.uploads.set(key, { key, id: id ?? undefined, at });
        break;
      }
      default:
    }
  }
}

function json(value: object): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** Parses a payload. The log's checksum vouches for it, and only this file writes it. */
function fields<T>(payload: Uint8Array): T {
  return JSON.parse(Buffer.from(payload).toString()) as T;
}

/** Restores an object from JSON, where an unknown time (NaN) became null. */
export function reviveObject(object: RemoteObject | null): RemoteObject | undefined {
  return object === null ? undefined : { ...object, modified: object.modified ?? Number.NaN };
}

export function toJson(posix: Posix): PosixJson {
  return { metadata: format(posix, posix.mark), headers: posix.headers };
}

export function fromJson({ metadata, headers }: PosixJson): Posix {
  return parse(metadata, headerNames(headers), false, 0, {
    uid: 0,
    gid: 0,
    fileMode: 0o644,
    directoryMode: 0o755,
  });
}

/** Journals of earlier versions have the SDK's names of headers. */
function headerNames(headers: ContentHeaders): ContentHeaders {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name.replace(/(?!^)[A-Z]/g, '-$&').toLowerCase(), value]),
  );
}
