import type { Readable } from 'node:stream';
import { type Attributes, FileType, type Logger } from '../backend/index.js';
import { hostBuffer } from '../memory/index.js';
import { BackendRegistry } from '../plugins/index.js';
import {
  differences,
  type HostEntry,
  HostFiles,
  overlay,
  type OverlayBackend,
} from '../../backends/overlay/index.js';
import { type Base, LAYERS } from './base.js';

/** A difference from what a sandbox began with. */
export interface SandboxChange {
  readonly kind: 'added' | 'changed' | 'removed';
  /** Absolute path in the sandbox. */
  readonly path: string;
}

/** Something of a file that can differ. */
export type Aspect = 'type' | 'content' | 'mode' | 'owner' | 'target' | 'device' | 'xattrs' | 'mtime';

/** Most bytes that {@link FileVersion.bytes} gives by default. */
const MOST_BYTES = 64 << 20;

/** What types of files are called. */
const TYPES: ReadonlyMap<number, string> = new Map([
  [FileType.REGULAR, 'file'],
  [FileType.DIRECTORY, 'directory'],
  [FileType.SYMLINK, 'symbolic link'],
  [FileType.FIFO, 'fifo'],
  [FileType.SOCKET, 'socket'],
  [FileType.CHARACTER, 'character device'],
  [FileType.BLOCK, 'block device'],
]);

/** A file as it was, or as it is. */
export class FileVersion {
  /** As lstat(2) tells them. */
  readonly attributes: Attributes;
  /** Where a symbolic link leads. */
  readonly target: string | undefined;
  readonly #files: HostFiles;
  readonly #path: string;

  /** @internal */
  constructor(files: HostFiles, path: string, attributes: Attributes, target: string | undefined) {
    this.#files = files;
    this.#path = path;
    this.attributes = attributes;
    this.target = target;
  }

  /** Type bits as in `Attributes.mode`. */
  get type(): number {
    return this.attributes.mode & FileType.MASK;
  }

  /** Its owner as `UID:GID`. */
  get owner(): string {
    const { uid = 0, gid = 0 } = this.attributes;
    return `${uid}:${gid}`;
  }

  /** Its permission bits, in octal. */
  get permissions(): string {
    return (this.attributes.mode & 0o7777).toString(8);
  }

  /** Type, size, permissions and owner, for people. */
  describe(): string {
    const { size = 0, rdev = 0 } = this.attributes;
    const words = [TYPES.get(this.type) ?? 'something'];
    if (this.target !== undefined) words.push(`to ${this.target}`);
    if (rdev !== 0) words.push(String(rdev));
    const bytes = this.type === FileType.REGULAR ? [`${size} bytes`] : [];
    return [words.join(' '), ...bytes, `mode ${this.permissions}`, `owner ${this.owner}`].join(', ');
  }

  /**
   * What is in it, a mebibyte at a time, as it is when it is read. It may be destroyed early.
   * Its errors: EISDIR, EINVAL for what is no file, ENOENT when it has gone, ECANCELED when the
   * sandbox has ended.
   */
  stream(): Readable {
    return this.#files.readStream(this.#path, { followsLink: false });
  }

  /**
   * What is in it, at once.
   * @param most bytes that it may have. Default: 64 MiB.
   * @throws EFBIG, and the errors of {@link stream}.
   */
  async bytes(most = MOST_BYTES): Promise<Buffer> {
    const parts: Buffer[] = [];
    let length = 0;
    for await (const part of this.stream() as AsyncIterable<Buffer>) {
      length += part.length;
      if (length > most) throw Object.assign(new Error(`EFBIG: ${this.#path}`), { code: 'EFBIG' });
      parts.push(part);
    }
    return Buffer.concat(parts);
  }

  /** Its extended attributes, by name. */
  xattrs(): Promise<ReadonlyMap<string, Uint8Array>> {
    return this.#files.xattrs(this.#path);
  }
}

/** Where the two versions of a sandbox's files are. */
interface Versions {
  before(): Promise<HostFiles>;
  readonly after: HostFiles;
}

/** A {@link SandboxChange} with what was there and what is there, which are read when asked for. */
export class SandboxDifference implements SandboxChange {
  readonly kind: SandboxChange['kind'];
  readonly path: string;
  readonly #versions: Versions;
  readonly #hasSameContent: boolean;

  /** @internal */
  constructor({ kind, path }: SandboxChange, versions: Versions, hasSameContent: boolean) {
    this.kind = kind;
    this.path = path;
    this.#versions = versions;
    this.#hasSameContent = hasSameContent;
  }

  /**
   * What the sandbox began with at the path; undefined if it was added. Of a directory of this host
   * it is what is there now.
   */
  async before(): Promise<FileVersion | undefined> {
    if (this.kind === 'added') return undefined;
    return versionIn(await this.#versions.before(), this.path);
  }

  /** What is there now; undefined if it was removed. */
  async after(): Promise<FileVersion | undefined> {
    return this.kind === 'removed' ? undefined : versionIn(this.#versions.after, this.path);
  }

  /**
   * All that was in a directory which is none any more, a directory before what was in it; nothing
   * of other paths.
   */
  async *removedBelow(): AsyncGenerator<SandboxDifference> {
    if ((await this.before())?.type !== FileType.DIRECTORY) return;
    if ((await this.after())?.type === FileType.DIRECTORY) return;
    const before = await this.#versions.before();
    for (const { name, type } of (await before.readdir(this.path)).toSorted(byName)) {
      const change = { kind: 'removed', path: `${this.path}/${name}` } as const;
      const removed = new SandboxDifference(change, this.#versions, false);
      yield removed;
      if (type === FileType.DIRECTORY) yield* removed.removedBelow();
    }
  }

  /**
   * What differs of a path that was changed: nothing where it was only opened for writing. Contents
   * of one length are read to compare them, two mebibytes at a time.
   */
  async aspects(): Promise<Aspect[]> {
    const [before, after] = [await this.before(), await this.after()];
    if (before === undefined || after === undefined) return [];
    if (before.type !== after.type) return ['type'];
    const [old, now] = [before.attributes, after.attributes];
    const found: Aspect[] = [];
    const differ = (fields: readonly (keyof Attributes)[]): boolean =>
      fields.some((field) => (old[field] ?? 0) !== (now[field] ?? 0));
    if (before.type === FileType.REGULAR && !this.#hasSameContent) {
      if (differ(['size']) || !(await haveSameContent(before, after))) found.push('content');
    }
    if (differ(['mode'])) found.push('mode');
    if (differ(['uid', 'gid'])) found.push('owner');
    if (before.target !== after.target) found.push('target');
    if (differ(['rdev'])) found.push('device');
    if (!areSame(await before.xattrs(), await after.xattrs())) found.push('xattrs');
    if (differ(['mtime', 'mtimeNsec'])) found.push('mtime');
    return found;
  }
}

/** What a sandbox has changed, beside what it began with. */
export class Differences {
  readonly #base: Base;
  readonly #overlay: OverlayBackend;
  readonly #versions: Versions;
  readonly #log: Logger;
  #before: Promise<OpenBase> | undefined;
  #isClosed = false;

  constructor(base: Base, root: OverlayBackend, files: HostFiles, log: Logger) {
    this.#base = base;
    this.#overlay = root;
    this.#log = log;
    this.#versions = { before: () => this.#openBefore(), after: files };
  }

  /**
   * What differs at a path and below, a directory before what is in it.
   * @param path absolute, without symbolic links.
   */
  async list(path: string): Promise<SandboxDifference[]> {
    const found: SandboxDifference[] = [];
    const within = path === '/' ? '/' : `${path}/`;
    const add = (change: SandboxChange, hasSameContent = false): void => {
      if (change.path !== path && !change.path.startsWith(within)) return;
      found.push(new SandboxDifference(change, this.#versions, hasSameContent));
    };
    /** A directory in the place of another one. */
    let replaced = '//';
    let before: HostFiles | undefined;
    const all = differences(this.#overlay.union);
    for await (const { kind, path: relative, replaces, hasSameContent } of all) {
      const at = `/${relative}`;
      // What the directory had that was in its place is not seen by the overlay.
      if (at.startsWith(replaced) && kind === 'added' && (await before!.exists(at))) {
        add({ kind: 'changed', path: at });
        continue;
      }
      add({ kind, path: at }, hasSameContent);
      if (!replaces) continue;
      before = await this.#openBefore();
      replaced = `${at}/`;
      for (const gone of await this.#goneBelow(before, at)) add({ kind: 'removed', path: gone });
    }
    return before === undefined ? found : found.toSorted((a, b) => (inTree(a) < inTree(b) ? -1 : 1));
  }

  /** What a directory had that is not there any more, without what was below that. */
  async #goneBelow(before: HostFiles, path: string): Promise<string[]> {
    const { type } = (await versionIn(before, path)) ?? { type: 0 };
    if (type !== FileType.DIRECTORY) return [];
    const gone: string[] = [];
    for (const entry of await before.readdir(path)) {
      const at = `${path}/${entry.name}`;
      if (!(await this.#versions.after.exists(at))) gone.push(at);
      else if (entry.type === FileType.DIRECTORY) gone.push(...(await this.#goneBelow(before, at)));
    }
    return gone;
  }

  async #openBefore(): Promise<HostFiles> {
    if (this.#isClosed) throw new Error('the sandbox has ended');
    this.#before ??= openBase(this.#base, this.#log);
    return (await this.#before).files;
  }

  /** Waits for what is being read. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await (await this.#before?.catch(() => undefined))?.close();
  }
}

/** In the order of the tree. */
function inTree({ path }: SandboxChange): string {
  return path.replaceAll('/', '\0');
}

function byName(a: HostEntry, b: HostEntry): number {
  return a.name < b.name ? -1 : 1;
}

interface OpenBase {
  readonly files: HostFiles;
  readonly close: () => Promise<void>;
}

/** What sandboxes begin with, as files to be read. */
async function openBase(base: Base, log: Logger): Promise<OpenBase> {
  const layers = await base.open(new BackendRegistry(), log);
  try {
    const root = overlay({ ...LAYERS, upper: undefined, lowers: layers.lowers });
    await root.mount({ log, createBuffer: hostBuffer });
    const files = new HostFiles(root);
    const close = async (): Promise<void> => {
      await files.close();
      await root.unmount?.();
      layers.close();
    };
    return { files, close };
  } catch (error) {
    layers.close();
    throw error;
  }
}

async function versionIn(files: HostFiles, path: string): Promise<FileVersion | undefined> {
  try {
    const attributes = await files.stat(path);
    const isLink = (attributes.mode & FileType.MASK) === FileType.SYMLINK;
    const target = isLink ? await files.readlink(path) : undefined;
    return new FileVersion(files, path, attributes, target);
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

async function haveSameContent(before: FileVersion, after: FileVersion): Promise<boolean> {
  const others = after.stream()[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  let other: Buffer = Buffer.alloc(0);
  try {
    for await (const piece of before.stream() as AsyncIterable<Buffer>) {
      for (let at = 0; at < piece.length;) {
        if (other.length === 0) {
          const next = await others.next();
          if (next.done === true) return false;
          other = next.value;
        }
        const count = Math.min(piece.length - at, other.length);
        if (piece.compare(other, 0, count, at, at + count) !== 0) return false;
        other = other.subarray(count);
        at += count;
      }
    }
    return other.length === 0 && (await others.next()).done === true;
  } finally {
    await others.return?.();
  }
}

function areSame(one: ReadonlyMap<string, Uint8Array>, other: ReadonlyMap<string, Uint8Array>): boolean {
  if (one.size !== other.size) return false;
  return [...one].every(([name, value]) => {
    const there = other.get(name);
    return there !== undefined && Buffer.compare(value, there) === 0;
  });
}
