import {
  type Attributes,
  type Awaitable,
  type Backend,
  type Context,
  type DirectoryEntry,
  FileType,
  FsError,
  andThen,
  type Opened,
} from '../backend/index.js';

/*
 * The file system through which host and guest talk: files that are texts, and files that are
 * pipes. A READ of a pipe without data is parked until there is some. Everything that comes from
 * the guest is hostile: no file keeps more than one request's bytes.
 */

/** A directory, of which only the host changes the names. */
export class Folder {
  readonly entries = new Map<string, ControlNode>();
}

/** A file that the guest reads: a script. */
export class TextFile {
  readonly content: Buffer;

  constructor(text: string | Buffer) {
    this.content = Buffer.from(text);
  }
}

/** What the guest reads as it comes. */
export interface PipeReader {
  /**
   * @param most bytes, 1 or more.
   * @returns 1 to `most` bytes; none at the end.
   */
  read(most: number): Awaitable<Uint8Array>;
}

/** A file that gives each opening a reader. */
export class Source {
  readonly open: () => PipeReader;

  constructor(open: () => PipeReader) {
    this.open = open;
  }
}

/** A file that takes what the guest writes. */
export class Sink {
  /** The guest's write is answered when the result is there. */
  readonly write: (bytes: Buffer) => Awaitable<void>;
  /** Called when nobody in the guest has it open any more. */
  readonly closed: () => void;
  openings = 0;

  constructor(write: (bytes: Buffer) => Awaitable<void>, closed: () => void = () => {}) {
    this.write = write;
    this.closed = closed;
  }
}

export type ControlNode = Folder | TextFile | Source | Sink;

/** A backend over a tree of control files. */
export class ControlShare implements Backend<ControlNode, PipeReader | undefined> {
  /** The host changes names at any moment. */
  readonly cache = { entryTimeout: 0, attributeTimeout: 0, negativeTimeout: 0 };
  readonly root = new Folder();

  mount(): ControlNode {
    return this.root;
  }

  lookup(parent: ControlNode, name: string) {
    const node = parent instanceof Folder ? parent.entries.get(name) : undefined;
    return node && { node, attributes: attributesOf(node) };
  }

  getattr(node: ControlNode): Attributes {
    return attributesOf(node);
  }

  /** Shells truncate what they write to; there is nothing to truncate. */
  setattr(node: ControlNode): Attributes {
    return attributesOf(node);
  }

  open(node: ControlNode): Opened<PipeReader | undefined> {
    if (node instanceof Sink) node.openings += 1;
    return { file: node instanceof Source ? node.open() : undefined, directIo: !(node instanceof TextFile) };
  }

  release(node: ControlNode): void {
    if (!(node instanceof Sink)) return;
    node.openings -= 1;
    if (node.openings === 0) node.closed();
  }

  read(
    node: ControlNode,
    file: PipeReader | undefined,
    buffer: { readonly length: number; put(at: number, source: Uint8Array): void },
    offset: number,
    { signal }: Context,
  ): Awaitable<number> {
    if (node instanceof TextFile) {
      const part = node.content.subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    }
    if (file === undefined) throw FsError.of('EACCES');
    return andThen(unlessAborted(file.read(buffer.length), signal), (bytes) => {
      buffer.put(0, bytes);
      return bytes.length;
    });
  }

  write(
    node: ControlNode,
    _file: PipeReader | undefined,
    buffer: { readonly length: number; get(at: number, target: Uint8Array): void },
    _offset: number,
    _flags: number,
    { signal }: Context,
  ): Awaitable<number> {
    if (!(node instanceof Sink)) throw FsError.of('EACCES');
    const bytes = Buffer.alloc(buffer.length);
    buffer.get(0, bytes);
    return andThen(unlessAborted(node.write(bytes), signal), () => bytes.length);
  }

  readdir(node: ControlNode): Iterable<DirectoryEntry> {
    if (!(node instanceof Folder)) throw FsError.of('ENOTDIR');
    return Array.from(node.entries, ([name, child]) => ({ name, type: typeOf(child) }));
  }
}

/** Gives up when the guest does, or ends. */
function unlessAborted<T>(value: Awaitable<T>, signal: AbortSignal): Awaitable<T> {
  if (!(value instanceof Promise)) return value;
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(FsError.of('EINTR'));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    void value.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

function typeOf(node: ControlNode): number {
  return node instanceof Folder ? FileType.DIRECTORY : FileType.REGULAR;
}

function attributesOf(node: ControlNode): Attributes {
  // A user without privilege reads the script by a descriptor; the folder keeps others away.
  const mode = node instanceof Folder ? 0o700 : node instanceof TextFile ? 0o755 : 0o600;
  return {
    mode: typeOf(node) | mode,
    size: node instanceof TextFile ? node.content.length : 0,
  };
}
