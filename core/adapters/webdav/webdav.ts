import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Backend, DirectoryEntry } from '../../backend/index.js';
import { FileType, FsError, OpenFlags, UsageError } from '../../backend/index.js';
import { type OpenPath, pathBackend } from '../path-backend.js';
import {
  type PathAttributes,
  type PathFile,
  type PathFileSystem,
  unlessMissing,
} from '../path-file-system.js';
import type { PathNode } from '../path-nodes.js';
import { Draft, DraftMemory } from './draft.js';
import type { Resource } from './multistatus.js';
import { contentOf, Server, type WebdavOptions } from './server.js';

/** Largest file that is read whole, from a server that knows no ranges. */
const WHOLE_MAX = 2 ** 24;
/** Names of a directory that are looked at in one turn of the event loop. */
const NAMES_AT_ONCE = 512;

/**
 * A backend over a directory of a WebDAV server (RFC 4918), to read and to write. Content is read
 * by ranges. What is written stays in memory until a descriptor is closed or fsync(2), and goes up
 * whole then, as WebDAV knows no writing in the middle: of two clients the last one wins. There are
 * no modes, owners, links or times to set (EPERM). A directory is removed only when it is listed as
 * empty, though not in one step with that. A listing has 16 MiB of XML at most (EFBIG), which is
 * some 40,000 names. Redirections are followed within the server only.
 * @param url of the directory.
 * @throws UsageError for an address or a limit that is none.
 */
export function fromWebdav(url: string, options: WebdavOptions = {}): Backend<PathNode, OpenPath> {
  const { timeoutMs = 1, draftBytes = 2 ** 28, isQuiet = false } = options;
  if (!/^https?:$/.test(URL.canParse(url) ? new URL(url).protocol : ''))
    throw new UsageError(`webdav: url ${url}: must begin with http:// or https://`);
  if (!(timeoutMs >= 1)) throw new UsageError(`webdav: timeoutMs ${timeoutMs}: must be 1 or more`);
  if (!(draftBytes >= 0)) throw new UsageError(`webdav: draftBytes ${draftBytes}: must be 0 or more`);
  return pathBackend(new DavPaths(new Server(url, options), draftBytes, isQuiet));
}

/** What a directory has. */
interface Child {
  readonly name: string | undefined;
  readonly type: number;
}

/** A file that somebody has open. */
interface DavFile {
  path: string;
  opens: number;
  /** What was written and may not be on the server yet. */
  draft: Draft | undefined;
  /** Milliseconds since the epoch. */
  changed: number;
  isDirty: boolean;
  isRemoved: boolean;
  /** The end of what loads it, uploads it or changes its path: one by one, never rejected. */
  settled: Promise<void>;
}

class DavPaths implements PathFileSystem {
  readonly #server: Server;
  readonly #memory: DraftMemory;
  /** Open files by path. */
  readonly #files = new Map<string, DavFile>();
  /** There if changes of what is not kept are to succeed. */
  readonly chmod?: () => Promise<void>;
  readonly chown?: () => Promise<void>;
  readonly utimes?: () => Promise<void>;

  constructor(server: Server, draftBytes: number, isQuiet: boolean) {
    this.#server = server;
    this.#memory = new DraftMemory(draftBytes);
    if (isQuiet) this.chmod = this.chown = this.utimes = () => Promise.resolve();
  }

  async stat(path: string): Promise<PathAttributes> {
    const file = this.#files.get(path);
    if (file?.draft !== undefined) return draftAttributes(file, file.draft);
    const [resource] = await this.#server.propfind(this.#server.urlOf(path), '0');
    if (resource === undefined) throw FsError.of('ENOENT');
    return attributes(resource);
  }

  async list(path: string): Promise<readonly DirectoryEntry[]> {
    const entries = new Map<string, DirectoryEntry>();
    for (const { name, type } of await this.#below(path))
      if (name !== undefined) entries.set(name, { name, type });
    return [...entries.values()];
  }

  /** What is in a directory, also what has no name that guests could use. */
  async #below(path: string): Promise<readonly Child[]> {
    const url = this.#collection(path);
    const directory = decodedPath(url.pathname);
    const children: Child[] = [];
    let count = 0;
    for (const { href, isCollection } of await this.#server.propfind(url, '1')) {
      if (++count % NAMES_AT_ONCE === 0) await nextTurn();
      const name = nameBelow(directory, href, this.#server.root);
      if (name !== '') children.push({ name, type: isCollection ? FileType.DIRECTORY : FileType.REGULAR });
    }
    // A server behind another one may have other paths than that.
    if (children.length === count && children.every(({ name }) => name === undefined))
      throw new Error(`PROPFIND ${url.href}: the answer is about other paths`);
    return children;
  }

  async open(path: string, flags: number): Promise<PathFile> {
    const known = this.#files.get(path);
    if (known === undefined && (flags & OpenFlags.CREAT) !== 0) {
      const exists = (flags & OpenFlags.EXCL) === 0 ? [412] : [];
      const headers = { 'if-none-match': '*' };
      const response = await this.#server.ask(
        'PUT',
        this.#server.urlOf(path),
        { headers, body: EMPTY },
        { accepts: exists },
      );
      await response.body?.cancel();
    }
    const file = this.#files.get(path) ?? newFile(path);
    this.#files.set(path, file);
    file.opens += 1;
    if ((flags & OpenFlags.TRUNC) !== 0) this.#cut(file);
    const appends = (flags & OpenFlags.APPEND) !== 0;
    return {
      read: (into, position) => this.#read(file, into, position),
      write: async (bytes, position) => {
        await this.#load(file);
        const draft = file.draft!;
        draft.write(bytes, appends ? draft.length : position);
        markChanged(file);
        return bytes.length;
      },
      stat: async () => (file.draft === undefined ? this.stat(file.path) : draftAttributes(file, file.draft)),
      truncate: (size) => this.#resize(file, size),
      sync: () => this.#upload(file),
      flush: () => this.#upload(file),
      close: () => this.#close(file),
    };
  }

  async truncate(path: string, size: number): Promise<void> {
    const { truncate, close, flush } = await this.open(path, OpenFlags.READ_WRITE);
    try {
      await truncate!(size);
      await flush!();
    } finally {
      await close();
    }
  }

  async mkdir(path: string): Promise<void> {
    const status = await this.#server.do('MKCOL', this.#collection(path), {}, [405]);
    if (status === 405) throw FsError.of('EEXIST');
  }

  async unlink(path: string): Promise<void> {
    if (isDirectory(await this.stat(path))) throw FsError.of('EISDIR');
    const file = this.#files.get(path);
    await this.#alone(file === undefined ? [] : [file], async () => {
      await this.#keep(file);
      await this.#server.do('DELETE', this.#server.urlOf(path));
      this.#detach(path);
    });
  }

  async rmdir(path: string): Promise<void> {
    if (!isDirectory(await this.stat(path))) throw FsError.of('ENOTDIR');
    await this.#refuseFilled(path);
    await this.#server.do('DELETE', this.#collection(path));
  }

  async rename(path: string, newPath: string): Promise<void> {
    if (newPath.startsWith(`${path}/`)) throw FsError.of('EINVAL');
    const [moved, replaced] = await Promise.all([this.stat(path), unlessMissing(this.stat(newPath))]);
    if (replaced !== undefined) {
      if (isDirectory(replaced) !== isDirectory(moved))
        throw FsError.of(isDirectory(replaced) ? 'EISDIR' : 'ENOTDIR');
      if (isDirectory(replaced)) await this.#refuseFilled(newPath);
    }
    const below = [...this.#files.values()].filter(
      (file) => file.path === path || file.path.startsWith(`${path}/`),
    );
    const open = this.#files.get(newPath);
    const at = (one: string): URL => (isDirectory(moved) ? this.#collection(one) : this.#server.urlOf(one));
    await this.#alone(open === undefined ? below : [...below, open], async () => {
      await this.#keep(open);
      for (const file of below) await this.#put(file);
      await this.#server.do('MOVE', at(path), { destination: at(newPath).href, overwrite: 'T' });
      this.#detach(newPath);
      for (const file of below) {
        this.#files.delete(file.path);
        file.path = newPath + file.path.slice(path.length);
        this.#files.set(file.path, file);
      }
    });
  }

  /** DELETE and MOVE take all that is below. */
  async #refuseFilled(path: string): Promise<void> {
    if ((await this.#below(path)).length > 0) throw FsError.of('ENOTEMPTY');
  }

  #collection(path: string): URL {
    return path === '/' ? this.#server.root : this.#server.urlOf(`${path}/`);
  }

  /** Runs what uses the paths of open files for more than to read, one after the other. */
  #alone(files: readonly DavFile[], work: () => Promise<void>): Promise<void> {
    const result = Promise.all(files.map(({ settled }) => settled)).then(work);
    const settled = result.catch(() => undefined);
    for (const file of files) file.settled = settled;
    return result;
  }

  async #read(file: DavFile, into: Buffer, position: number): Promise<number> {
    if (file.draft !== undefined) return file.draft.read(into, position);
    if (file.isRemoved) throw FsError.of('ESTALE');
    if (into.length === 0) return 0;
    const url = this.#server.urlOf(file.path);
    const range = `bytes=${position}-${position + into.length - 1}`;
    const headers = { range, 'accept-encoding': 'identity' };
    const response = await this.#server.ask('GET', url, { headers }, { bytes: into.length, accepts: [416] });
    if (response.status === 416) {
      await response.body?.cancel();
      return 0;
    }
    const isWhole = response.status !== 206;
    return fill(response, into, isWhole ? position : 0, isWhole ? WHOLE_MAX : into.length);
  }

  /** Brings a file's content here, to be changed. */
  async #load(file: DavFile): Promise<void> {
    if (file.draft === undefined) await this.#alone([file], () => this.#get(file));
  }

  /** Brings here what is about to lose its path, so that its users go on, if there is room. */
  async #keep(file: DavFile | undefined): Promise<void> {
    if (file === undefined) return;
    await this.#get(file).catch((error: unknown) => {
      if (error !== FsError.of('ENOSPC')) throw error;
    });
  }

  async #get(file: DavFile): Promise<void> {
    if (file.draft !== undefined) return;
    if (file.isRemoved) throw FsError.of('ESTALE');
    const { size = 0, mtime = 0 } = await this.stat(file.path);
    const draft = new Draft(this.#memory);
    try {
      draft.resize(size);
      const url = this.#server.urlOf(file.path);
      const headers = { 'accept-encoding': 'identity' };
      const response = await this.#server.ask('GET', url, { headers }, { bytes: size });
      let at = 0;
      for await (const part of contentOf(response)) {
        // It is longer than the server said.
        if (at + part.length > size) throw FsError.of('EIO');
        draft.write(part, at);
        at += part.length;
      }
      if (at < size) throw FsError.of('EIO');
    } catch (error) {
      draft.resize(0);
      throw error;
    }
    // It may have been cut meanwhile.
    if ((file.draft as Draft | undefined) !== undefined) draft.resize(0);
    else Object.assign(file, { draft, changed: Number(mtime) * 1000 });
  }

  #cut(file: DavFile): void {
    this.#drop(file);
    file.draft = new Draft(this.#memory);
    markChanged(file);
  }

  async #resize(file: DavFile, size: number): Promise<void> {
    if (size === 0) return this.#cut(file);
    await this.#load(file);
    file.draft!.resize(size);
    markChanged(file);
  }

  #upload(file: DavFile): Promise<void> {
    return this.#alone([file], () => this.#put(file));
  }

  async #put(file: DavFile): Promise<void> {
    if (!file.isDirty || file.isRemoved) return;
    file.isDirty = false;
    try {
      const draft = file.draft!;
      const { length } = draft;
      const url = this.#server.urlOf(file.path);
      const headers = { 'content-length': String(length) };
      const body = (): AsyncIterable<Uint8Array<ArrayBuffer>> => draft.content();
      const response = await this.#server.ask('PUT', url, { headers, body }, { bytes: length });
      await response.body?.cancel();
    } catch (error) {
      file.isDirty = true;
      throw error;
    }
  }

  async #close(file: DavFile): Promise<void> {
    file.opens -= 1;
    if (file.opens > 0) return;
    try {
      await this.#upload(file);
    } finally {
      // It may have been opened again meanwhile.
      if (file.opens === 0) {
        this.#drop(file);
        if (this.#files.get(file.path) === file) this.#files.delete(file.path);
      }
    }
  }

  #drop(file: DavFile): void {
    file.draft?.resize(0);
    file.draft = undefined;
  }

  /** Nothing has the path any more. */
  #detach(path: string): void {
    const file = this.#files.get(path);
    if (file === undefined) return;
    file.isRemoved = true;
    this.#files.delete(path);
  }
}

const EMPTY = Buffer.alloc(0);

function newFile(path: string): DavFile {
  return {
    path,
    opens: 0,
    draft: undefined,
    changed: 0,
    isDirty: false,
    isRemoved: false,
    settled: Promise.resolve(),
  };
}

function markChanged(file: DavFile): void {
  file.changed = Date.now();
  file.isDirty = true;
}

function draftAttributes({ changed, isRemoved }: DavFile, { length }: Draft): PathAttributes {
  const seconds = changed / 1000;
  return { ...FILE, size: length, nlink: isRemoved ? 0 : 1, mtime: seconds, ctime: seconds, atime: seconds };
}

const FILE = { mode: FileType.REGULAR | 0o644 };

function attributes({ isCollection, length, modified = 0 }: Resource): PathAttributes {
  const times = { mtime: modified, ctime: modified, atime: modified };
  return isCollection
    ? { mode: FileType.DIRECTORY | 0o755, ...times }
    : { ...FILE, size: length ?? 0, ...times };
}

function isDirectory({ mode }: PathAttributes): boolean {
  return (mode & FileType.MASK) === FileType.DIRECTORY;
}

/** A path without its encoding, of which servers have several. */
function decodedPath(pathname: string): string {
  try {
    return decodeURIComponent(pathname);
  } catch {
    return pathname;
  }
}

/**
 * The name of what is right below a directory, `''` for the directory itself; undefined for
 * anything else, and for a name that Linux does not take.
 * @param directory its {@link decodedPath}, with a slash at its end.
 */
function nameBelow(directory: string, href: string, root: URL): string | undefined {
  if (!URL.canParse(href, root.href)) return undefined;
  const path = new URL(href, root).pathname.replace(/\/$/, '');
  if (decodedPath(`${path}/`) === directory) return '';
  const start = path.lastIndexOf('/') + 1;
  if (decodedPath(path.slice(0, start)) !== directory) return undefined;
  try {
    const name = decodeURIComponent(path.slice(start));
    return /^\.{0,2}$|[/\0]/.test(name) ? undefined : name;
  } catch {
    return undefined;
  }
}

/**
 * Fills memory with the content of an answer, from a position of it on.
 * @param most bytes of the answer that are looked at.
 */
async function fill(response: Response, into: Buffer, from: number, most: number): Promise<number> {
  let at = 0;
  let count = 0;
  for await (const part of contentOf(response)) {
    const bytes = Buffer.from(part.buffer, part.byteOffset, part.length);
    const skip = Math.max(0, from - at);
    if (skip < bytes.length) count += bytes.copy(into, count, skip);
    at += bytes.length;
    if (count === into.length) break;
    if (at > most) throw FsError.of('EFBIG');
  }
  return count;
}
