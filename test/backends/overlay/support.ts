import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hostBuffer } from '../../../core/memory/index.js';
import {
  type Attributes,
  type Backend,
  type BackendHost,
  type Context,
  FileType,
  OpenFlags,
} from '../../../core/backend/index.js';
import memfs from '../../../backends/memfs/index.js';
import { passthrough } from '../../../backends/passthrough/backend.js';
import { options as passthroughOptions } from '../../../backends/passthrough/options.js';
import {
  overlay as createOverlay,
  type OverlayBackend,
  type OverlaySettings,
} from '../../../backends/overlay/index.js';
import { allEntriesOf } from '../../support/listings.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

export const host: BackendHost = { log: quiet, createBuffer: hostBuffer };

export const root: Context = {
  uid: 0,
  gid: 0,
  pid: 1,
  umask: 0,
  groups: [],
  securityContext: undefined,
  signal: new AbortController().signal,
};

/** Directories of the host for layers, removed afterwards. */
export async function onHost(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'virtiofs-kit-overlay-'));
  try {
    for (const name of ['upper', 'lower']) mkdirSync(join(directory, name));
    await use(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** A fresh in-memory layer. */
export async function memoryLayer(): Promise<Backend> {
  const environment = { log: quiet, createBackend: () => Promise.reject(new Error('not used')) };
  return memfs.create(await memfs.options.parseAsync({}), environment);
}

/** A directory of the host as a layer. */
export function share(directory: string): Backend {
  return passthrough(
    passthroughOptions.parse({ sharedDir: directory, trustedXattrs: 'allow' }),
    quiet,
  ) as Backend;
}

/** The same backend with other methods in place of some of its own. */
function variant(
  backend: Backend,
  change: (name: string, method: (...given: unknown[]) => unknown) => unknown,
): Backend {
  return new Proxy(backend, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (typeof value !== 'function') return value;
      return change(String(property), value.bind(target) as (...given: unknown[]) => unknown);
    },
  });
}

/** Methods without a promise. */
const IMMEDIATE = new Set(['key', 'forget']);

/** The same backend, but every answer is a promise that resolves later. */
export function asynchronous(backend: Backend, delay = (): Promise<unknown> => nextTurn()): Backend {
  return variant(backend, (name, method) => {
    if (IMMEDIATE.has(name)) return method;
    return async (...given: unknown[]) => {
      await delay();
      const answer = await method(...given);
      return copyOf(answer);
    };
  });
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/**
 * Copies an answer. A synchronous backend fills the same object again at its next call, but what a
 * promise has given must not change.
 */
function copyOf(answer: unknown): unknown {
  if (answer === null || typeof answer !== 'object' || Object.getPrototypeOf(answer) !== Object.prototype)
    return answer;
  const copy: Record<string, unknown> = { ...answer };
  if ('attributes' in copy) copy['attributes'] = { ...(copy['attributes'] as Attributes) };
  return copy;
}

/**
 * The same backend, which calls `before` ahead of each call that may give a promise. If `before`
 * throws, so does the call. If it returns a promise, the call waits for it.
 */
export function watched(backend: Backend, before: (name: string, given: unknown[]) => unknown): Backend {
  return variant(backend, (name, method) => (...given: unknown[]) => {
    if (IMMEDIATE.has(name)) return method(...given);
    const waiting = before(name, given);
    return waiting instanceof Promise ? waiting.then(() => method(...given)) : method(...given);
  });
}

/** The same backend without what overlayfs's own marks need. */
export function plain(backend: Backend): Backend {
  const lacks = new Set(['mknod', 'setxattr', 'getxattr', 'listxattr', 'removexattr']);
  return variant(backend, (name, method) => (lacks.has(name) ? undefined : method));
}

/** Drives a backend by paths, as a guest does: every look-up is forgotten again. */
export class Paths {
  readonly backend: Backend;
  readonly top: object;
  readonly #counts = new Map<object, number>();

  constructor(backend: Backend, top: object) {
    this.backend = backend;
    this.top = top;
  }

  static async mount(backend: Backend): Promise<Paths> {
    return new Paths(backend, await backend.mount(host));
  }

  async #walk(path: string): Promise<{ node: object; attributes: Attributes; trail: object[] }> {
    const trail: object[] = [];
    let node = this.top;
    let attributes = { ...(await this.backend.getattr(node, undefined, root)) };
    for (const name of path.split('/').filter((part) => part !== '')) {
      const entry = await this.backend.lookup(node, name, root);
      if (entry === undefined) {
        this.#forget(trail);
        throw Object.assign(new Error(`ENOENT ${path}`), { code: 'ENOENT' });
      }
      node = entry.node;
      attributes = { ...entry.attributes };
      this.#take(node);
      trail.push(node);
    }
    return { node, attributes, trail };
  }

  #forget(trail: readonly object[]): void {
    for (const node of trail) this.#drop(node);
  }

  /** Counts look-ups as the engine does. A node is forgotten when its count is 0. */
  #take(node: object): void {
    this.#counts.set(node, (this.#counts.get(node) ?? 0) + 1);
  }

  #drop(node: object): void {
    const count = this.#counts.get(node)!;
    this.#counts.set(node, count - 1);
    if (count > 1) return;
    this.#counts.delete(node);
    this.backend.forget?.(node);
  }

  /** Runs `use` on the node at a path, and forgets it afterwards. */
  async at<T>(path: string, use: (node: object, attributes: Attributes) => T | Promise<T>): Promise<T> {
    const { node, attributes, trail } = await this.#walk(path);
    try {
      return await use(node, attributes);
    } finally {
      this.#forget(trail);
    }
  }

  /** Runs `use` on the directory that holds a path's last name. */
  async in<T>(path: string, use: (directory: object, name: string) => T | Promise<T>): Promise<T> {
    const at = path.lastIndexOf('/');
    return this.at(path.slice(0, at), (directory) => use(directory, path.slice(at + 1)));
  }

  stat(path: string): Promise<Attributes> {
    return this.at(path, (_node, attributes) => attributes);
  }

  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path);
      return true;
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return false;
      throw error;
    }
  }

  async mkdir(path: string, mode = 0o755): Promise<void> {
    await this.in(path, async (directory, name) => {
      const { node } = await this.backend.mkdir!(directory, name, mode, root);
      this.#take(node);
      this.#drop(node);
    });
  }

  async symlink(path: string, target: string): Promise<void> {
    await this.in(path, async (directory, name) => {
      const { node } = await this.backend.symlink!(directory, name, target, root);
      this.#take(node);
      this.#drop(node);
    });
  }

  /** Creates or truncates a file and writes it. */
  async write(path: string, text: string, flags: number = OpenFlags.TRUNC): Promise<void> {
    const bytes = new TextEncoder().encode(text);
    if (!(await this.exists(path))) {
      await this.in(path, async (directory, name) => {
        const made = {
          ...(await this.backend.create!(
            directory,
            name,
            0o644,
            OpenFlags.READ_WRITE | OpenFlags.EXCL,
            root,
          )),
        };
        this.#take(made.node);
        await this.#put(made.node, made.file, bytes, 0);
        await this.backend.release?.(made.node, made.file);
        this.#drop(made.node);
      });
      return;
    }
    await this.at(path, async (node) => {
      const opened = { ...(await this.backend.open!(node, OpenFlags.READ_WRITE | flags, root)) };
      await this.#put(node, opened.file, bytes, 0);
      await this.backend.release?.(node, opened.file);
    });
  }

  /** Writes text at the beginning of an open file. */
  put(node: object, file: unknown, text: string): Promise<void> {
    return this.#put(node, file, new TextEncoder().encode(text), 0);
  }

  async #put(node: object, file: unknown, bytes: Uint8Array, at: number): Promise<void> {
    if (bytes.length === 0) return;
    const buffer = hostBuffer(bytes.length);
    buffer.bytes.set(bytes);
    await this.backend.write!(node, file, buffer, at, 0, root);
    buffer.close();
  }

  async read(path: string): Promise<string> {
    return this.at(path, async (node) => {
      const opened = { ...(await this.backend.open!(node, OpenFlags.READ_ONLY, root)) };
      const text = await this.readFile(node, opened.file);
      await this.backend.release?.(node, opened.file);
      return text;
    });
  }

  async readFile(node: object, file: unknown): Promise<string> {
    const buffer = hostBuffer(1 << 20);
    const count = await this.backend.read!(node, file, buffer, 0, root);
    const text = Buffer.from(buffer.bytes.subarray(0, count)).toString();
    buffer.close();
    return text;
  }

  async names(path: string): Promise<string[]> {
    return this.at(path, async (node) => {
      const names = [];
      for (const { name } of await allEntriesOf(await this.backend.readdir!(node, root))) names.push(name);
      return names.toSorted();
    });
  }

  unlink(path: string): Promise<void> {
    return this.in(path, (directory, name) => this.backend.unlink!(directory, name, root));
  }

  rmdir(path: string): Promise<void> {
    return this.in(path, (directory, name) => this.backend.rmdir!(directory, name, root));
  }

  rename(from: string, to: string, flags = 0): Promise<void> {
    return this.in(from, (directory, name) =>
      this.in(to, (newDirectory, newName) =>
        this.backend.rename!(directory, name, newDirectory, newName, flags, root),
      ),
    );
  }

  link(from: string, to: string): Promise<void> {
    return this.at(from, (node) =>
      this.in(to, async (directory, name) => {
        const entry = await this.backend.link!(node, directory, name, root);
        this.#take(entry.node);
        this.#drop(entry.node);
      }),
    );
  }

  /** Every path with its type and, for files, its content. */
  async tree(path = ''): Promise<Record<string, string>> {
    const found: Record<string, string> = {};
    for (const name of await this.names(path)) {
      const child = `${path}/${name}`;
      const { mode } = await this.stat(child);
      const type = mode & FileType.MASK;
      if (type === FileType.DIRECTORY) Object.assign(found, { [child]: 'directory' }, await this.tree(child));
      else if (type === FileType.SYMLINK) {
        found[child] = `-> ${await this.at(child, (node) => this.backend.readlink!(node, root))}`;
      } else found[child] = await this.read(child);
    }
    return found;
  }
}

/** An overlay under test. */
export interface Union {
  readonly union: Paths;
  readonly overlay: OverlayBackend;
  readonly upper: Backend;
  readonly lowers: Paths[];
  /** A new overlay of the same layers, as after a restart. */
  again(settings?: Partial<OverlaySettings>): Promise<Paths>;
}

export const defaults: OverlaySettings = {
  upper: undefined,
  lowers: [],
  upperPath: [],
  workPath: undefined,
  redirectDir: true,
  metacopy: true,
  xattrs: 'trusted',
  marks: 'auto',
};

/** An overlay of in-memory layers; `fill` prepares each lower before it is put below. */
export async function overlayOf(
  fills: readonly ((lower: Paths) => Promise<void>)[],
  settings: Partial<OverlaySettings> = {},
): Promise<Union> {
  const lowers: Paths[] = [];
  for (const fill of fills) {
    const lower = await Paths.mount(await memoryLayer());
    await fill(lower);
    lowers.push(lower);
  }
  const upper = settings.upper ?? (await memoryLayer());
  const all = { ...defaults, upper, lowers: lowers.map(mounted), ...settings };
  const overlay = createOverlay(all);
  const again = (others: Partial<OverlaySettings> = {}): Promise<Paths> =>
    Paths.mount(createOverlay({ ...all, ...others }) as Backend);
  return { union: await Paths.mount(overlay as Backend), overlay, upper, lowers, again };
}

/** A backend that is mounted already, to be mounted by the overlay. */
export function mounted(lower: Paths): Backend {
  return new Proxy(lower.backend, {
    get(target, property) {
      if (property === 'mount') return () => lower.top;
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
