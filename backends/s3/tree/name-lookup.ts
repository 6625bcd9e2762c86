import { FileType, type NodeChange } from '../../../core/backend/index.js';
import { heapLimit } from '../../../core/backend/limits.js';
import type { Posix, RemoteObject } from '../objects/attributes.js';
import { fresh, parse } from '../objects/attributes.js';
import type { Head } from '../client/bucket-types.js';
import { deferred, parallel } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import { S3Failure } from '../client/failure.js';
import { decodePart, keyFits, RESERVED } from '../objects/keys.js';
import { childPath, learn, learnAbsent, nextSequence, pathOf, sameVersion, stillHolds } from './nodes.js';
import type { Directory, Known, Listing } from './nodes.js';
import type { Services } from '../service/services.js';

/** Longer objects cannot be symbolic links, whose targets have at most 4,095 bytes. */
const LINK_MAX_BYTES = 4096;
/**
 * Requests for looking up a single name: an unknown one, and one that was a file. A directory is
 * listed as soon as that costs no more requests than the single look-ups since the last listing.
 */
const REQUESTS_FOR_NAME = 2;
const REQUESTS_FOR_FILE = 1;
const HIDDEN =
  'keys that are no file names are not shown and stay as they are, here and elsewhere; the counter skippedKeys has their number';
const ABSENT: Known = { kind: 'absent', at: 0, sequence: 0 };
/**
 * Most files of a directory whose attributes are requested ahead of a sequential reader, and the
 * number of such requests at once.
 */
const PREFETCH_NAMES = 1000;
const PREFETCH_WIDTH = 24;
/** Names of one request for a listing. */
const PAGE = 1000;
/** Directories that are listed ahead of a reader who goes from one to the next. */
const LIST_AHEAD_DIRECTORIES = 3;
/** Bytes of heap for what is known of a name: its key, ETag, attributes, and its place. */
const NAME_HEAP_BYTES = 1024;
/** Most names kept in memory, over all directories: what a quarter of the heap holds. */
export const NAMES_MAX = Math.min(1_000_000, Math.floor(heapLimit / 4 / NAME_HEAP_BYTES));
/** Most names of a directory that is listed, beyond which its listing is ENOMEM. */
const LISTED_MAX = 2 * NAMES_MAX;
/**
 * A directory is looked through when so many of its names were learned one by one, and an eighth of
 * those that it has.
 */
const LEARNED_MAX = 10_000;
/** What was heard of a name so long ago is asked for again in any case. */
const STALE_MS = 60_000;

/**
 * For so many times `metadataTtl` a file is taken to be none of the directories that keys below its
 * name would make of it.
 */
const ALONE_TTLS = 12;

/**
 * Looks names up in the bucket, by listings where that saves requests, otherwise one by one.
 * Answers are cached for the time that the options give. An error is never taken for absence.
 */
export class NameLookup {
  readonly #services: Services;
  /** Directories with names in memory and their number, least recently listed first. */
  readonly #filled = new Map<Directory, number>();
  /**
   * Names of directories that went out of use, by path, oldest first. They are validated again
   * before use; but attributes of a version that was seen before need no request.
   */
  readonly #retired = new Map<string, Map<string, Known>>();
  #count = 0;
  /** Called when the bucket has something else at a name than what was known, once it is set. */
  changed: ((directory: Directory, name: string, kind: NodeChange['kind']) => void) | undefined;
  /** Said once for each mount: a listing every few seconds would fill the log. */
  #complained = false;

  constructor(services: Services) {
    this.#services = services;
  }

  /** What a name stands for, with attributes, if the cache knows; otherwise undefined. */
  fresh(directory: Directory, name: string, maxAge: number): Known | undefined {
    if (directory.parent === undefined && name === RESERVED) return ABSENT;
    if (directory.learned >= LEARNED_MAX) this.#trim(directory);
    const known = this.#believed(directory, name, maxAge);
    if (known === undefined || !this.isComplete(known)) return undefined;
    this.#services.metrics.metadataHits += 1;
    return known;
  }

  /** Whether everything is known that could be asked for. */
  isComplete(known: Known): boolean {
    if (known.kind === 'absent' || known.posix !== undefined) return true;
    if (known.kind === 'directory' && known.marker === false) return true;
    return this.#services.options.attributes === 'listing';
  }

  /**
   * Looks a name up that is not {@link fresh}, with its attributes.
   * @param maxAge milliseconds for which cached answers are valid; 0 asks the bucket.
   */
  async find(directory: Directory, name: string, maxAge: number, deadline: Deadline): Promise<Known> {
    let known = this.#believed(directory, name, maxAge);
    if (known !== undefined) this.#services.metrics.metadataHits += 1;
    else {
      this.#services.metrics.metadataMisses += 1;
      if (maxAge > 0 && listingIsCheaper(directory, directory.names.get(name))) {
        const whole = await this.list(directory, deadline, directory.listed === undefined ? 1 : undefined);
        if (whole) known = directory.names.get(name) ?? ABSENT;
      }
      if (known === undefined) {
        await this.#ask(directory, name, deadline);
        known = directory.names.get(name) ?? ABSENT;
      }
    }
    if (this.isComplete(known)) return known;
    this.#prefetch(directory, name);
    await deadline.wait(this.#askOnce(directory, name, deadline));
    return directory.names.get(name) ?? ABSENT;
  }

  #believed(directory: Directory, name: string, maxAge: number): Known | undefined {
    const now = performance.now();
    const known = directory.names.get(name);
    if (known === undefined) {
      if (directory.listed === undefined || now - directory.listed > this.#negativeAge(maxAge))
        return undefined;
      return { kind: 'absent', at: directory.listed, sequence: 0 };
    }
    const limit = known.kind === 'absent' ? this.#negativeAge(maxAge) : maxAge;
    return now - known.at <= limit ? known : undefined;
  }

  #negativeAge(maxAge: number): number {
    return Math.min(maxAge, this.#services.options.negativeTtl * 1000);
  }

  #askOnce(directory: Directory, name: string, deadline: Deadline): Promise<void> {
    let asking = directory.asking.get(name);
    if (asking === undefined) {
      asking = this.#ask(directory, name, deadline).finally(() => directory.asking.delete(name));
      directory.asking.set(name, asking);
    }
    return asking;
  }

  /**
   * Asks the bucket for one name: for an object, and for anything below it. A directory hides a
   * file of the same name. It asks again if the directory has another path by then: the answer may
   * be of a time when the name had left the former one.
   */
  async #ask(directory: Directory, name: string, deadline: Deadline): Promise<void> {
    for (;;) {
      const path = childPath(directory, name);
      const answer = await this.#answer(directory, name, path, deadline);
      if (childPath(directory, name) !== path) continue;
      if (answer !== undefined) this.#apply(directory, name, answer);
      return;
    }
  }

  /** @returns nothing where the bucket need not be asked: the name is not there. */
  async #answer(
    directory: Directory,
    name: string,
    path: string,
    deadline: Deadline,
  ): Promise<Known | undefined> {
    const { bucket, pendingDeletes, keys, options } = this.#services;
    const key = keys.file(path);
    if (!keyFits(key) || pendingDeletes.has(key) || pendingDeletes.has(`${key}/`)) {
      learnAbsent(directory, name);
      return undefined;
    }
    const before = directory.names.get(name);
    const reply = { at: performance.now(), sequence: nextSequence() };
    if (before?.kind === 'file') {
      // Most files stay files: what lies below the name is asked for now and then only.
      const aloneAt = before.aloneAt ?? Number.NEGATIVE_INFINITY;
      const isRecent = reply.at - aloneAt < options.metadataTtl * 1000 * ALONE_TTLS;
      const head = isRecent ? await bucket.head(key, deadline) : undefined;
      if (head !== undefined) return this.#file(head, reply, aloneAt);
    } else if (before?.kind === 'directory') {
      const head = await bucket.head(`${key}/`, deadline);
      if (head !== undefined) return this.#directory(head, reply);
    }
    const [head, below] = await Promise.all([
      bucket.head(key, deadline),
      bucket.list(`${key}/`, '', undefined, 1, deadline),
    ]);
    const first = below.objects[0];
    if (first !== undefined) {
      const marker = first.key === `${key}/` ? await bucket.head(first.key, deadline) : undefined;
      if (head !== undefined) this.#shadowed(path);
      return this.#directory(marker, reply);
    }
    return head === undefined ? { kind: 'absent', ...reply } : this.#file(head, reply, reply.at);
  }

  #file(head: Head, reply: { at: number; sequence: number }, aloneAt: number): Known {
    const attributesAtSeconds = Date.now() / 1000;
    const posix = this.posixOf(head, false);
    return { kind: 'file', object: head, posix, attributesAtSeconds, aloneAt, ...reply };
  }

  #directory(marker: Head | undefined, reply: { at: number; sequence: number }): Known {
    const posix = marker === undefined ? undefined : this.posixOf(marker, true);
    return { kind: 'directory', marker: marker !== undefined, posix, ...reply };
  }

  #shadowed(path: string): void {
    this.#services.log.warn({ path }, 'a directory and an object have one name: the directory is shown');
  }

  /** Applies an answer, unless a newer one came while the request was on its way. */
  #apply(directory: Directory, name: string, known: Known): void {
    const present = directory.names.get(name);
    if (present !== undefined && present.sequence >= known.sequence) return;
    this.#compare(directory, name, present, known);
    learn(directory, name, known);
  }

  /** Tells how what the bucket has differs from what was known, if something was. */
  #compare(directory: Directory, name: string, before: Known | undefined, now: Known): void {
    if (this.changed === undefined) return;
    const known = before ?? (directory.listed === undefined ? undefined : ABSENT);
    const kind = known && differenceOf(known, now);
    if (kind !== undefined) this.changed(directory, name, kind);
  }

  /** Attributes of an object from its metadata. */
  posixOf(head: Head, directory: boolean): Posix {
    return parse(head.metadata, head.headers, directory, head.modified, this.#services.defaults);
  }

  /** Attributes of an object that is known from a listing only. */
  posixFromListing(object: RemoteObject): Posix {
    const { defaults } = this.#services;
    const seconds = Number.isNaN(object.modified) ? Math.floor(Date.now() / 1000) : object.modified;
    const mode = FileType.REGULAR | defaults.fileMode;
    return fresh(mode, defaults.uid, defaults.gid, { seconds, nanoseconds: 0 });
  }

  /** Requests the attributes of the following names when somebody goes through a listing. */
  #prefetch(directory: Directory, name: string): void {
    if (directory.listed === undefined || directory.asking.size > 0) return;
    this.#askAhead(directory, name);
  }

  /** @param behind start after this name; undefined: at the first. */
  #askAhead(directory: Directory, behind: string | undefined): void {
    const names: string[] = [];
    let passed = behind === undefined;
    for (const [next, known] of directory.names) {
      if (next === behind) passed = true;
      else if (passed && known.kind === 'file' && known.posix === undefined) names.push(next);
      if (names.length === PREFETCH_NAMES) break;
    }
    // One file alone does not make a pattern.
    if (names.length < 2) return;
    directory.attributed = true;
    const { options } = this.#services;
    const deadline = Deadline.after(options.operationTimeout);
    parallel(names, PREFETCH_WIDTH, async (next) => {
      const known = directory.names.get(next);
      if (known?.kind === 'file' && known.posix === undefined) await this.#askOnce(directory, next, deadline);
    }).then(
      () => this.#proceed(directory),
      () => undefined,
    );
  }

  /**
   * Continues with the attributes of the next directory, if a reader goes from each directory to
   * the next.
   */
  #proceed({ parent, name }: Directory): void {
    if (parent?.listed === undefined || parent.walked !== name || !parent.inOrder) return;
    const child = parent.children.get(directoryOrder(parent, parent.listed).get(name) ?? '');
    if (child?.kind !== 'directory' || child.asking.size > 0) return;
    if (child.listed !== undefined) this.#askAhead(child, undefined);
  }

  /**
   * Lists a directory, all pages, into `names`. Only one listing runs at a time; other callers wait
   * for it.
   * @param most pages after which it is given up; 1 for a look-up, which must not wait for a large
   * directory
   * @returns whether `names` is complete.
   */
  async list(directory: Directory, deadline: Deadline, most = Number.POSITIVE_INFINITY): Promise<boolean> {
    for (;;) {
      directory.listing ??= this.#begin(directory, most);
      const { over, isLong, most: pages } = directory.listing;
      const whole = await deadline.wait(most === 1 ? Promise.race([over, isLong]) : over);
      // The listing in progress may have been given up earlier, for a look-up.
      if (whole || most <= pages) return whole;
    }
  }

  #begin(directory: Directory, most: number): Listing {
    const isLong = deferred<false>();
    const listing = this.#list(directory, most, () => isLong.resolve(false));
    return { most, over: listing.finally(() => (directory.listing = undefined)), isLong: isLong.promise };
  }

  /**
   * Records that a directory is being read. If it follows the one that was read before, the next
   * ones are listed ahead, one page each.
   * @param ttl milliseconds for which listings are valid.
   */
  walk(directory: Directory, ttl: number): void {
    const { parent, name } = directory;
    if (parent?.listed === undefined || ttl === 0) return;
    const before = parent.walked;
    parent.walked = name;
    if (before === undefined || before === name) return;
    const order = directoryOrder(parent, parent.listed);
    parent.inOrder = order.get(before) === name;
    if (!parent.inOrder) return;
    if (directory.attributed && directory.asking.size === 0) this.#proceed(directory);
    let next = order.get(name);
    for (let i = 0; i < LIST_AHEAD_DIRECTORIES && next !== undefined; i++, next = order.get(next)) {
      const child = parent.children.get(next);
      if (child?.kind !== 'directory' || child.listing !== undefined) continue;
      if (child.listed !== undefined && performance.now() - child.listed < ttl / 2) continue;
      const deadline = Deadline.after(this.#services.options.operationTimeout);
      this.list(child, deadline, 1).catch(() => undefined);
    }
  }

  /** @param foundLong called after the first page, if it is not all. */
  async #list(directory: Directory, most: number, foundLong: () => void): Promise<boolean> {
    const { bucket, pendingDeletes, keys, options } = this.#services;
    const prefix = keys.directory(pathOf(directory));
    // Its own marker is none of its names: a page has as many as fit then.
    const after = prefix === '' ? undefined : prefix;
    const at = performance.now();
    const sequence = nextSequence();
    const found = new Map<string, Known>();
    const shadowed: string[] = [];
    let token: string | undefined;
    let pages = 0;
    let skipped: string | undefined;
    do {
      const page = await bucket.list(
        prefix,
        '/',
        token,
        PAGE,
        Deadline.after(options.operationTimeout),
        after,
      );
      pages += 1;
      for (const object of page.objects) {
        if (object.key === prefix || pendingDeletes.has(object.key)) continue;
        const name = this.#name(directory, object.key.slice(prefix.length));
        if (name === undefined) skipped = this.#skip(object.key);
        else if (found.get(name)?.kind === 'directory') shadowed.push(name);
        else found.set(name, { kind: 'file', object, posix: undefined, aloneAt: at, at, sequence });
      }
      for (const group of page.prefixes) {
        if (pendingDeletes.has(group)) continue;
        const name = this.#name(directory, group.slice(prefix.length, -1));
        if (name === undefined) {
          if (group !== keys.reserved('')) skipped = this.#skip(group);
          continue;
        }
        if (found.has(name)) shadowed.push(name);
        found.set(name, { kind: 'directory', marker: undefined, posix: undefined, at, sequence });
      }
      token = page.next;
      if (token !== undefined && pages === 1) foundLong();
      if (pages === most && token !== undefined) {
        directory.pages = Number.POSITIVE_INFINITY;
        return false;
      }
      if (found.size > LISTED_MAX) throw new S3Failure('refused', 200, 'TooManyNames');
    } while (token !== undefined);
    // As for a single name.
    if (keys.directory(pathOf(directory)) !== prefix) return this.#list(directory, most, foundLong);
    for (const name of shadowed) this.#shadowed(childPath(directory, name));
    if (skipped !== undefined) this.#complain(skipped);
    this.#merge(directory, found, sequence);
    directory.listed = at;
    directory.pages = pages;
    directory.misses = 0;
    this.#account(directory);
    return true;
  }

  #complain(key: string): void {
    if (this.#complained) return;
    this.#complained = true;
    this.#services.log.warn({ key }, HIDDEN);
  }

  #name(directory: Directory, part: string): string | undefined {
    const name = decodePart(part);
    return directory.parent === undefined && name === RESERVED ? undefined : name;
  }

  #skip(key: string): string {
    this.#services.metrics.skippedKeys += 1;
    return key;
  }

  /**
   * Applies a listing, except for names with newer answers. Attributes of versions seen before are
   * kept.
   */
  #merge(directory: Directory, found: Map<string, Known>, sequence: number): void {
    const { names } = directory;
    for (const [name, known] of names) {
      if (known.sequence > sequence) found.set(name, known);
      else if (!found.has(name)) this.#compare(directory, name, known, ABSENT);
    }
    for (const [name, known] of found) {
      const before = names.get(name);
      if (before === undefined || before.sequence <= sequence) this.#compare(directory, name, before, known);
      if (before === undefined || before.sequence > sequence) continue;
      if (known.kind === 'file' && before.kind === 'file' && stillHolds(before, known.object)) {
        found.set(name, { ...known, posix: before.posix, attributesAtSeconds: before.attributesAtSeconds });
      } else if (known.kind === 'directory' && before.kind === 'directory') {
        // A listing does not tell whether a marker has changed: what was known of it counts while
        // it is fresh.
        const stale = known.at - before.at > this.#services.options.metadataTtl * 1000;
        found.set(name, stale ? { ...known, marker: before.marker } : { ...before, at: before.at, sequence });
      }
    }
    names.clear();
    for (const [name, known] of found) names.set(name, known);
  }

  /**
   * Limits the names in memory: directories out of use are forgotten first, then those listed
   * longest ago.
   */
  #account(directory: Directory): void {
    directory.learned = 0;
    this.#count += directory.names.size - (this.#filled.get(directory) ?? 0);
    this.#filled.delete(directory);
    this.#filled.set(directory, directory.names.size);
    for (const [path, { size }] of this.#retired) {
      if (this.#count <= NAMES_MAX) return;
      this.#retired.delete(path);
      this.#count -= size;
    }
    for (const [old, size] of this.#filled) {
      if (this.#count <= NAMES_MAX || old === directory) return;
      this.#filled.delete(old);
      this.#count -= size;
      old.names.clear();
      old.listed = undefined;
    }
  }

  /**
   * Forgets names of a directory that guests have asked for one by one: those that are not there,
   * and where there are too many in all, those that were last heard of long ago.
   */
  #trim(directory: Directory): void {
    const { names } = directory;
    // While a listing is under way, it must not bring back what was removed since it began.
    if (directory.learned < names.size / 8 || directory.listing !== undefined) return;
    for (const [name, { kind }] of names) if (kind === 'absent') names.delete(name);
    this.#account(directory);
    if (this.#count <= NAMES_MAX) return;
    const staleAt = performance.now() - Math.max(STALE_MS, this.#services.options.metadataTtl * 1000);
    for (const [name, { at }] of names) if (at < staleAt) names.delete(name);
    directory.listed = undefined;
    this.#account(directory);
  }

  /** Forgets the names of a directory. */
  drop(directory: Directory): void {
    this.#count -= this.#filled.get(directory) ?? 0;
    this.#filled.delete(directory);
    directory.names.clear();
    directory.listed = undefined;
  }

  /** Keeps the names of a directory that goes out of use, for the next node at its path. */
  retire(directory: Directory): void {
    const names = new Map(directory.names);
    this.drop(directory);
    if (names.size === 0) return;
    const path = pathOf(directory);
    this.#count += names.size - (this.#retired.get(path)?.size ?? 0);
    this.#retired.delete(path);
    this.#retired.set(path, names);
  }

  /** Gives a new directory node the names that were kept for its path. */
  adopt(directory: Directory): void {
    const path = pathOf(directory);
    const names = this.#retired.get(path);
    if (names === undefined) return;
    this.#retired.delete(path);
    this.#count -= names.size;
    for (const [name, known] of names) {
      if (known.kind !== 'absent')
        directory.names.set(name, { ...known, at: Number.NEGATIVE_INFINITY, sequence: 0 });
    }
  }

  /** The type bits of a name for a listing; 0 if only a HEAD would tell. */
  typeOf(known: Known): number {
    if (known.kind === 'directory') return FileType.DIRECTORY;
    if (known.kind === 'absent') return 0;
    if (known.posix !== undefined) return known.posix.mode & FileType.MASK;
    const certain = this.#services.options.attributes === 'listing' || known.object.size > LINK_MAX_BYTES;
    return certain ? FileType.REGULAR : 0;
  }
}

/** How what a name stands for has changed; undefined if it has not. */
function differenceOf(before: Known, now: Known): NodeChange['kind'] | undefined {
  if (now.kind === 'absent') return before.kind === 'absent' ? undefined : 'removed';
  if (before.kind !== now.kind) return 'made';
  if (before.kind !== 'file' || now.kind !== 'file' || sameVersion(before.object, now.object))
    return undefined;
  const isRewritten = before.object.etag !== now.object.etag || before.object.size !== now.object.size;
  return isRewritten ? 'content' : 'attributes';
}

/** Maps each directory of a listing to the next one. */
function directoryOrder(directory: Directory, listed: number): ReadonlyMap<string, string> {
  if (directory.order?.listed === listed) return directory.order.next;
  const next = new Map<string, string>();
  let last: string | undefined;
  for (const [name, { kind }] of directory.names) {
    if (kind !== 'directory') continue;
    if (last !== undefined) next.set(last, name);
    last = name;
  }
  directory.order = { listed, next };
  return next;
}

/**
 * Whether listing a directory is cheaper than asking for one of its names. A name that had a marker
 * is asked for in any case: a listing does not have the marker's attributes.
 */
function listingIsCheaper(directory: Directory, known: Known | undefined): boolean {
  if (known?.kind === 'directory' && known.marker === true) return false;
  directory.misses += known?.kind === 'file' ? REQUESTS_FOR_FILE : REQUESTS_FOR_NAME;
  return directory.misses > directory.pages;
}
