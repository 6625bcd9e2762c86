import type { Backend, DirectoryEntry } from '../../backend/index.js';
import { FileType, FsError, OpenFlags, UsageError } from '../../backend/index.js';
import { type OpenPath, pathBackend } from '../path-backend.js';
import type { PathAttributes, PathFile, PathFileSystem } from '../path-file-system.js';
import type { PathNode } from '../path-nodes.js';
import { readMultistatus, type Resource } from './multistatus.js';
import { Server, type WebdavOptions } from './server.js';

/** What is asked of each resource. */
const PROPERTIES = Buffer.from(
  '<?xml version="1.0"?><propfind xmlns="DAV:"><prop>' +
    '<resourcetype/><getcontentlength/><getlastmodified/></prop></propfind>',
);

/** Largest file that is read whole, from a server that knows no ranges. */
const WHOLE_MAX = 2 ** 24;

/**
 * A backend over a directory of a WebDAV server (RFC 4918), to read and to write. Content is read
 * by ranges. What is written stays in memory until a descriptor is closed or fsync(2), and goes up
 * whole then, as WebDAV knows no writing in the middle: of two clients the last one wins. There are
 * no modes, owners, links or times to set (EPERM). A directory is removed only when it is listed as
 * empty, though not in one step with that.
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

/** A file that somebody has open. */
interface DavFile {
  path: string;
  opens: number;
  /** What was written and may not be on the server yet. */
  draft: Buffer | undefined;
  /** Its memory is larger, so that it need not move with each write. */
  length: number;
  /** Milliseconds since the epoch. */
  changed: number;
  isDirty: boolean;
  isRemoved: boolean;
  /** Uploads, one after the other. */
  uploading: Promise<void>;
}

class DavPaths implements PathFileSystem {
  readonly #server: Server;
  readonly #draftBytes: number;
  /** Open files by path. */
  readonly #files = new Map<string, DavFile>();
  /** Memory of all drafts. */
  #drafted = 0;
  /** There if changes of what is not kept are to succeed. */
  readonly chmod?: () => Promise<void>;
  readonly chown?: () => Promise<void>;
  readonly utimes?: () => Promise<void>;

  constructor(server: Server, draftBytes: number, isQuiet: boolean) {
    this.#server = server;
    this.#draftBytes = draftBytes;
    if (isQuiet) this.chmod = this.chown = this.utimes = () => Promise.resolve();
  }

  async stat(path: string): Promise<PathAttributes> {
    const file = this.#files.get(path);
    if (file?.draft !== undefined) return draftAttributes(file);
    const [resource] = await this.#propfind(path, '0');
    if (resource === undefined) throw FsError.of('ENOENT');
    return attributes(resource);
  }

  async list(path: string): Promise<readonly DirectoryEntry[]> {
    const base = this.#server.urlOf(path === '/' ? path : `${path}/`).pathname;
    const entries = new Map<string, DirectoryEntry>();
    for (const { href, isCollection } of await this.#propfind(path, '1')) {
      const name = nameBelow(base, href, this.#server.root);
      if (name !== undefined)
        entries.set(name, { name, type: isCollection ? FileType.DIRECTORY : FileType.REGULAR });
    }
    return [...entries.values()];
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
        return this.#write(file, bytes, appends ? file.length : position);
      },
      stat: () => (file.draft === undefined ? this.stat(file.path) : Promise.resolve(draftAttributes(file))),
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
    // Whoever has it open goes on with what it had, if there is room.
    if (file !== undefined)
      await this.#load(file).catch((error: unknown) => {
        if (error !== FsError.of('ENOSPC')) throw error;
      });
    await this.#server.do('DELETE', this.#server.urlOf(path));
    this.#detach(path);
  }

  async rmdir(path: string): Promise<void> {
    if (!isDirectory(await this.stat(path))) throw FsError.of('ENOTDIR');
    // DELETE takes all that is below.
    if ((await this.list(path)).length > 0) throw FsError.of('ENOTEMPTY');
    await this.#server.do('DELETE', this.#collection(path));
  }

  async rename(path: string, newPath: string): Promise<void> {
    if (newPath.startsWith(`${path}/`)) throw FsError.of('EINVAL');
    const [moved, replaced] = await Promise.all([
      this.stat(path),
      this.stat(newPath).catch((error: unknown) => {
        if (error === FsError.of('ENOENT')) return undefined;
        throw error;
      }),
    ]);
    if (replaced !== undefined) {
      if (isDirectory(replaced) !== isDirectory(moved))
        throw FsError.of(isDirectory(replaced) ? 'EISDIR' : 'ENOTDIR');
      if (isDirectory(replaced) && (await this.list(newPath)).length > 0) throw FsError.of('ENOTEMPTY');
    }
    const open = this.#files.get(newPath);
    if (open !== undefined) await this.#load(open);
    const below = [...this.#files.values()].filter(
      (file) => file.path === path || file.path.startsWith(`${path}/`),
    );
    for (const file of below) await this.#upload(file);
    const at = (one: string): URL => (isDirectory(moved) ? this.#collection(one) : this.#server.urlOf(one));
    await this.#server.do('MOVE', at(path), { destination: at(newPath).href, overwrite: 'T' });
    this.#detach(newPath);
    for (const file of below) {
      this.#files.delete(file.path);
      file.path = newPath + file.path.slice(path.length);
      this.#files.set(file.path, file);
    }
  }

  #collection(path: string): URL {
    return this.#server.urlOf(`${path}/`);
  }

  async #propfind(path: string, depth: '0' | '1'): Promise<readonly Resource[]> {
    const headers = { depth, 'content-type': 'application/xml' };
    const url = depth === '1' && path !== '/' ? this.#collection(path) : this.#server.urlOf(path);
    const response = await this.#server.ask('PROPFIND', url, { headers, body: PROPERTIES });
    const resources = readMultistatus(await this.#server.text(response));
    if (resources === undefined) throw new Error(`PROPFIND ${url.href}: the answer is no multistatus`);
    return resources;
  }

  async #read(file: DavFile, into: Buffer, position: number): Promise<number> {
    if (file.draft !== undefined)
      return position >= file.length ? 0 : file.draft.copy(into, 0, position, file.length);
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
    if (file.draft !== undefined) return;
    if (file.isRemoved) throw FsError.of('ESTALE');
    const { size = 0, mtime = 0 } = await this.stat(file.path);
    this.#reserve(size);
    const draft = Buffer.alloc(size);
    try {
      const url = this.#server.urlOf(file.path);
      const headers = { 'accept-encoding': 'identity' };
      const response = await this.#server.ask('GET', url, { headers }, { bytes: size });
      if ((await fill(response, draft, 0, size)) < size) throw FsError.of('EIO');
    } catch (error) {
      this.#drafted -= size;
      throw error;
    }
    // Another request may have brought it meanwhile.
    if ((file.draft as Buffer | undefined) !== undefined) this.#drafted -= size;
    else Object.assign(file, { draft, length: size, changed: Number(mtime) * 1000 });
  }

  #reserve(bytes: number): void {
    if (this.#drafted + bytes > this.#draftBytes) throw FsError.of('ENOSPC');
    this.#drafted += bytes;
  }

  #cut(file: DavFile): void {
    this.#drop(file);
    Object.assign(file, { draft: Buffer.alloc(0), length: 0, changed: Date.now(), isDirty: true });
  }

  #write(file: DavFile, bytes: Uint8Array, position: number): number {
    const end = position + bytes.length;
    this.#grow(file, end);
    // What lies between the end and here has been zeros since the memory was taken.
    file.draft!.set(bytes, position);
    file.length = Math.max(file.length, end);
    file.changed = Date.now();
    file.isDirty = true;
    return bytes.length;
  }

  async #resize(file: DavFile, size: number): Promise<void> {
    if (size === 0) return this.#cut(file);
    await this.#load(file);
    this.#grow(file, size);
    if (size < file.length) file.draft!.fill(0, size, file.length);
    Object.assign(file, { length: size, changed: Date.now(), isDirty: true });
  }

  /** Makes room for a length. Beyond it the memory has zeros. */
  #grow(file: DavFile, length: number): void {
    const { draft } = file;
    if (length <= draft!.length) return;
    // A size that cannot be kept is refused before memory is taken.
    const room = Math.min(Math.max(length, 2 * draft!.length), Math.max(length, this.#draftBytes));
    this.#reserve(room - draft!.length);
    const grown = Buffer.alloc(room);
    draft!.copy(grown, 0, 0, file.length);
    file.draft = grown;
  }

  #upload(file: DavFile): Promise<void> {
    const upload = async (): Promise<void> => {
      if (!file.isDirty || file.isRemoved) return;
      file.isDirty = false;
      try {
        const body = Buffer.from(file.draft!.subarray(0, file.length));
        const url = this.#server.urlOf(file.path);
        const response = await this.#server.ask('PUT', url, { body }, { bytes: body.length });
        await response.body?.cancel();
      } catch (error) {
        file.isDirty = true;
        throw error;
      }
    };
    const uploading = file.uploading.then(upload);
    file.uploading = uploading.catch(() => undefined);
    return uploading;
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
    this.#drafted -= file.draft?.length ?? 0;
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
  const uploading = Promise.resolve();
  return {
    path,
    opens: 0,
    draft: undefined,
    length: 0,
    changed: 0,
    isDirty: false,
    isRemoved: false,
    uploading,
  };
}

function draftAttributes({ length, changed, isRemoved }: DavFile): PathAttributes {
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

/** The name of what is right below a directory; undefined for the directory and anything else. */
function nameBelow(base: string, href: string, root: URL): string | undefined {
  if (!URL.canParse(href, root.href)) return undefined;
  const { pathname } = new URL(href, root);
  if (!pathname.startsWith(base)) return undefined;
  const [part = '', ...rest] = pathname.slice(base.length).split('/');
  if (part === '' || rest.some((more) => more !== '')) return undefined;
  try {
    const name = decodeURIComponent(part);
    return /^\.{1,2}$|[/\0]/.test(name) ? undefined : name;
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
  for await (const part of response.body ?? []) {
    const bytes = Buffer.from(part.buffer, part.byteOffset, part.length);
    const skip = Math.max(0, from - at);
    if (skip < bytes.length) count += bytes.copy(into, count, skip);
    at += bytes.length;
    if (count === into.length) break;
    if (at > most) throw FsError.of('EFBIG');
  }
  return count;
}
