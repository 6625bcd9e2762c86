import {
  andThen,
  type Attributes,
  type Awaitable,
  type Backend,
  type BackendHost,
  type Context,
  counter,
  DAEMON,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  type Metric,
  type Opened,
  OpenFlags,
  RenameFlags,
  run,
  type Steps,
  UsageError,
  wait,
  wrap,
} from '../../backend/index.js';
import { NodesInUse } from '../nodes-in-use.js';
import { Turns } from '../turns.js';
import { Content, FileState } from './content.js';
import { Keys } from './keys.js';
import { sizeOf } from './layout.js';
import { isCompressed, openTarget, sealTarget, targetLength } from './links.js';
import { isTextName, Names, type SealedName, textNameOf } from './names.js';
import { open, seal, SEAL_BYTES } from './sealing.js';

/** How a file system is encrypted. */
export interface EncryptedOptions {
  /** 32 secret bytes: see `newEncryptionKey`, `readEncryptionKey`, `encryptionKeyFrom`. */
  readonly key: Uint8Array;
}

/** An open file of the inner backend. */
export interface SealedFile<F> {
  readonly inner: F;
  /** Writes go to the end. */
  readonly appends: boolean;
}

/** In the root, what tells a wrong key. No encrypted name is like it. */
const CHECK = 'virtiofs-kit.key';
const CHECK_BYTES = 32;

/** What is kept of a node, in bytes. */
const NODE_BYTES = 384;

/** Long names that are remembered. */
const LONG_NAMES = 1024;

/** Attributes whose values are data of users. Others mean something to the inner backend. */
const USER = 'user.';
const XATTR_MAX = 65_536;

/**
 * The same file system with content, names, targets of links and values of `user.*` attributes
 * encrypted in the inner backend: AES-256-GCM for content, by blocks of 4 KiB, each bound to its
 * place and its file, so that a block that was changed or moved is EIO. Sizes, times, modes, owners
 * and the shape of the tree stay to be seen.
 *
 * What the inner backend has that was not encrypted with this key is not listed. The file
 * `virtiofs-kit.key` in its root tells a wrong key when it is mounted; it is no secret, and nothing
 * is lost with it. Only one process may change the inner backend at a time. A crash or a full disk
 * in the middle of a write leaves blocks that are EIO until they are written anew.
 *
 * Not told from what was there: an older state of a block or file, a file that was cut between
 * blocks, blocks replaced by holes, and names that were exchanged with each other. The same name
 * is encrypted alike everywhere.
 * @throws UsageError for a key that is none, and where `inner` is no backend or reads no files.
 */
export function encrypted<N extends object, F>(
  inner: Backend<N, F>,
  { key }: EncryptedOptions,
): Backend<N, SealedFile<F>> {
  if (inner.read === undefined) throw new UsageError('encrypted: the backend reads no files');
  const keys = new Keys(key);
  const names = new Names(keys);
  const longNames = new Map<string, string>();
  /** Changes of long names, which are two names each, come one after the other. */
  const longTurns = new Turns();
  let host: BackendHost | undefined;
  let refused = 0;
  let foreign = 0;
  const content = new Content(inner, keys, (state, block) => {
    refused += 1;
    if (!state.isBroken) host?.log.error({ block }, 'a block of a file is not what was written');
    state.isBroken = true;
  });
  const nodes = new NodesInUse<N, FileState>((node) => inner.forget?.(node));
  const stateOf = (node: N): FileState => nodes.get(node) ?? nodes.use(node, newState);

  /** Attributes as guests see them. */
  function shown(node: N, attributes: Attributes): Awaitable<Attributes> {
    const { mode, size = 0 } = attributes;
    const type = mode & FileType.MASK;
    if (type === FileType.REGULAR) return { ...attributes, size: sizeOf(size) };
    if (type !== FileType.SYMLINK) return attributes;
    if (!isCompressed(size)) return { ...attributes, size: targetLength(size) };
    const rest = { ...attributes };
    return run(
      (function* () {
        const target = openTarget(keys, yield* wait(inner.readlink!(node, DAEMON)));
        return { ...rest, size: Buffer.byteLength(target) };
      })(),
    );
  }

  /** Makes a call that gives a node to the engine, unless its attributes cannot be told. */
  function* giving<E extends Entry<N> | undefined>(call: () => Awaitable<E>): Steps<E> {
    const given = yield* nodes.giving(call, (entry) => entry && void nodes.hold(entry.node, newState));
    if (given === undefined) return given;
    const entry = { ...given };
    try {
      const attributes = yield* wait(shown(entry.node, entry.attributes));
      nodes.use(entry.node, newState);
      return { ...entry, attributes };
    } finally {
      nodes.letGo(entry.node);
    }
  }

  function* opening<E extends Opened<F>>(
    flags: number,
    call: (flags: number) => Awaitable<E>,
  ): Steps<E & Opened<never>> {
    const opened = yield* wait(call(innerFlags(flags)));
    const file: SealedFile<F> = { inner: opened.file, appends: (flags & OpenFlags.APPEND) !== 0 };
    return { ...opened, file } as unknown as E & Opened<never>;
  }

  /**
   * The node of a name in the inner backend, which may use the entry again for the next look-up.
   * The caller calls `letGo`.
   */
  function* held(parent: N, name: string, context: Context): Steps<N | undefined> {
    let node: N | undefined;
    yield* nodes.giving(
      () => inner.lookup(parent, name, context),
      (entry) => {
        if (entry === undefined) return;
        ({ node } = entry);
        nodes.hold(node, newState);
      },
    );
    return node;
  }

  /** Whether a name is there in the inner backend. */
  function* isThere(parent: N, name: string, context: Context): Steps<boolean> {
    const node = yield* held(parent, name, context);
    if (node !== undefined) nodes.letGo(node);
    return node !== undefined;
  }

  /** Makes the link that has a long name's text. */
  function* keepText({ text }: SealedName, parent: N, context: Context): Steps<void> {
    if (text === undefined) return;
    if (inner.symlink === undefined) throw FsError.of('ENAMETOOLONG');
    if (yield* isThere(parent, text.name, context)) return;
    const made = yield* nodes.giving(
      () => inner.symlink!(parent, text.name, text.target, context),
      ({ node }) => void nodes.hold(node, newState),
    );
    nodes.letGo(made.node);
  }

  /** Removes the link that has a long name's text, once nothing has the name. */
  function* dropText({ name, text }: SealedName, parent: N, context: Context): Steps<void> {
    if (text === undefined || inner.unlink === undefined) return;
    if (yield* isThere(parent, name, context)) return;
    if (yield* isThere(parent, text.name, context)) yield* wait(inner.unlink(parent, text.name, context));
  }

  /** Carries out what makes a name. */
  function making<R>(
    parent: N,
    name: string,
    context: Context,
    make: (sealed: string) => Steps<R>,
  ): Awaitable<R> {
    const sealed = names.seal(name);
    if (sealed.text === undefined) return run(make(sealed.name));
    return longTurns.run(function* () {
      yield* keepText(sealed, parent, context);
      try {
        return yield* make(sealed.name);
      } catch (error) {
        yield* dropText(sealed, parent, context);
        throw error;
      }
    });
  }

  /** Carries out what removes a name. */
  function removing(
    parent: N,
    name: string,
    context: Context,
    remove: (sealed: string) => Awaitable<void>,
  ): Awaitable<void> {
    const sealed = names.seal(name);
    if (sealed.text === undefined) return remove(sealed.name);
    return longTurns.run(function* () {
      yield* wait(remove(sealed.name));
      yield* dropText(sealed, parent, context);
    });
  }

  /** The name that an entry of the inner backend stands for. */
  async function nameOf(directory: N, sealed: string, context: Context): Promise<string | undefined> {
    const textName = textNameOf(sealed);
    if (textName === undefined) return names.open(sealed);
    const known = longNames.get(sealed);
    if (known !== undefined) return known;
    const link = await run(held(directory, textName, context));
    if (link === undefined) return undefined;
    try {
      const name = names.open((await inner.readlink?.(link, context)) ?? '');
      if (name === undefined || names.seal(name).name !== sealed) return undefined;
      const [oldest] = longNames.keys();
      if (longNames.size >= LONG_NAMES) longNames.delete(oldest!);
      longNames.set(sealed, name);
      return name;
    } finally {
      nodes.letGo(link);
    }
  }

  async function* listed(
    directory: N,
    listing: Iterable<DirectoryEntry> | AsyncIterable<DirectoryEntry>,
    context: Context,
  ): AsyncGenerator<DirectoryEntry> {
    for await (const entry of listing) {
      if (entry.name === '.' || entry.name === '..') {
        yield entry;
        continue;
      }
      if (isTextName(entry.name) || entry.name === CHECK) continue;
      const name = await nameOf(directory, entry.name, context);
      if (name === undefined) foreign += 1;
      else yield { ...entry, name };
    }
  }

  /** Removes the texts of long names that a crash has left, if there is nothing else. */
  async function removeTexts(directory: N, context: Context): Promise<void> {
    const texts: string[] = [];
    for await (const { name } of (await inner.readdir?.(directory, context)) ?? []) {
      if (isTextName(name)) texts.push(name);
      else if (name !== '.' && name !== '..') throw FsError.of('ENOTEMPTY');
    }
    for (const name of texts) await inner.unlink?.(directory, name, context);
  }

  /** Tells of changes by the names that guests know. */
  function telling(given: BackendHost): BackendHost {
    return {
      ...given,
      changed(node, { kind, name }) {
        if (name === undefined) return given.changed?.(node, { kind });
        const opened = longNames.get(name) ?? names.open(name);
        if (opened !== undefined) given.changed?.(node, { kind, name: opened });
        else if (textNameOf(name) !== undefined) given.changed?.(node, { kind: 'attributes' });
      },
    };
  }

  /** Tells a wrong key, or keeps what will tell one. */
  async function check(root: N): Promise<void> {
    const buffer = content.buffers.take();
    try {
      const found = await inner.lookup(root, CHECK, DAEMON);
      if (found !== undefined) {
        const { node } = found;
        const opened = await inner.open?.(node, OpenFlags.READ_ONLY, DAEMON);
        const part = buffer.slice(0, CHECK_BYTES);
        const count = await inner.read!(node, opened?.file as F, part, 0, DAEMON);
        if (opened !== undefined) await inner.release?.(node, opened.file);
        inner.forget?.(node);
        if (!keys.isOwn(buffer.bytes.slice(0, count)))
          throw new UsageError('encrypted: this is not the key with which the files were encrypted');
      } else if (inner.create !== undefined && inner.write !== undefined) {
        const flags = OpenFlags.READ_WRITE | OpenFlags.CREAT | OpenFlags.EXCL;
        const { node, file } = await inner.create(root, CHECK, 0o600, flags, DAEMON);
        buffer.bytes.set(keys.check);
        const part = buffer.slice(0, CHECK_BYTES);
        await inner.write(node, file, part, 0, 0, DAEMON);
        await inner.release?.(node, file);
        inner.forget?.(node);
      }
    } finally {
      content.buffers.give(buffer);
    }
  }

  const figures = (): readonly Metric[] => [
    counter('refused_blocks', 'Blocks that were changed, moved or torn, and not read.', refused),
    counter('foreign_names', 'Names that are not encrypted with this key, and not listed.', foreign),
  ];

  return wrap<N, SealedFile<F>>(
    inner as unknown as Backend<N, SealedFile<F>>,
    {
      async mount(next, given) {
        host = given;
        content.buffers.host = given;
        const root = await next(telling(given));
        nodes.use(root, newState);
        await check(root);
        return root;
      },
      unmount(next) {
        content.buffers.close();
        return next();
      },
      metrics: (next) => [...next(), ...figures()],
      forget: (_next, node) => nodes.forget(node),
      resolve: (next, resolved) => run(nodes.giving(() => next(resolved), stateOf)),
      parent: (next, directory, context) => run(nodes.giving(() => next(directory, context), stateOf)),
      lookup: (next, parent, name, context) =>
        run(giving(() => next(parent, names.seal(name).name, context))),
      getattr: (_next, node, file, context) =>
        andThen(inner.getattr(node, file?.inner, context), (attributes) => shown(node, attributes)),
      setattr(_next, node, { size, ...changes }, file, context) {
        const change = (sealedSize?: number): Awaitable<Attributes> => {
          const all = sealedSize === undefined ? changes : { ...changes, size: sealedSize };
          return inner.setattr!(node, all, file?.inner, context);
        };
        const state = stateOf(node);
        const changed =
          size === undefined
            ? change()
            : state.turns.run(() => content.resize(state, node, file?.inner, size, context, change));
        return andThen(changed, (attributes) => shown(node, attributes));
      },
      readlink: (next, node, context) => andThen(next(node, context), (target) => openTarget(keys, target)),
      mknod: (next, parent, name, mode, rdev, context) =>
        making(parent, name, context, (sealed) => giving(() => next(parent, sealed, mode, rdev, context))),
      mkdir: (next, parent, name, mode, context) =>
        making(parent, name, context, (sealed) => giving(() => next(parent, sealed, mode, context))),
      symlink: (next, parent, name, target, context) =>
        making(parent, name, context, (sealed) =>
          giving(() => next(parent, sealed, sealTarget(keys, target), context)),
        ),
      link: (next, node, parent, name, context) =>
        making(parent, name, context, (sealed) => giving(() => next(node, parent, sealed, context))),
      create: (_next, parent, name, mode, flags, context) =>
        making(parent, name, context, (sealed) =>
          opening(flags, (granted) =>
            run(giving(() => inner.create!(parent, sealed, mode, granted, context))),
          ),
        ),
      tmpfile: (_next, parent, mode, flags, context) =>
        run(opening(flags, (granted) => run(giving(() => inner.tmpfile!(parent, mode, granted, context))))),
      unlink: (next, parent, name, context) =>
        removing(parent, name, context, (sealed) => next(parent, sealed, context)),
      rmdir: (next, parent, name, context) =>
        removing(parent, name, context, (sealed) =>
          run(
            (function* () {
              const directory = yield* held(parent, sealed, context);
              try {
                yield* wait(next(parent, sealed, context));
              } catch (error) {
                if (directory === undefined || error !== FsError.of('ENOTEMPTY')) throw error;
                yield* wait(removeTexts(directory, context));
                yield* wait(next(parent, sealed, context));
              } finally {
                if (directory !== undefined) nodes.letGo(directory);
              }
            })(),
          ),
        ),
      rename(next, parent, name, newParent, newName, flags, context) {
        const from = names.seal(name);
        const to = names.seal(newName);
        const go = (): Awaitable<void> => next(parent, from.name, newParent, to.name, flags, context);
        if (from.text === undefined && to.text === undefined) return go();
        if ((flags & RenameFlags.WHITEOUT) !== 0) throw FsError.of('EINVAL');
        return longTurns.run(function* () {
          yield* keepText(to, newParent, context);
          if ((flags & RenameFlags.EXCHANGE) !== 0) yield* keepText(from, parent, context);
          try {
            yield* wait(go());
          } finally {
            yield* dropText(to, newParent, context);
            yield* dropText(from, parent, context);
          }
        });
      },
      open(_next, node, flags, context) {
        const state = stateOf(node);
        const go = (): Steps<Opened<SealedFile<F>>> =>
          opening(flags, (granted) => inner.open!(node, granted, context));
        return (flags & OpenFlags.TRUNC) === 0 ? run(go()) : state.turns.run(go);
      },
      read(_next, node, file, buffer, offset, context) {
        const state = stateOf(node);
        return state.turns.beside(() => content.read(state, node, innerFile(file), buffer, offset, context));
      },
      write(_next, node, file, buffer, offset, flags, context) {
        const state = stateOf(node);
        const appends = (file as SealedFile<F> | undefined)?.appends === true;
        return state.turns.run(() =>
          content.write(state, node, innerFile(file), appends, buffer, offset, flags, context),
        );
      },
      flush: (_next, node, file, context) => inner.flush!(node, innerFile(file), context),
      release: (_next, node, file) => inner.release!(node, innerFile(file)),
      fsync: (_next, node, file, dataOnly, context) => inner.fsync!(node, innerFile(file), dataOnly, context),
      readdir: (next, node, context) =>
        andThen(next(node, context), (listing) => listed(node, listing, context)),
      getxattr(next, node, name, context) {
        if (!name.startsWith(USER)) return next(node, name, context);
        return andThen(next(node, name, context), (sealed) => {
          if (sealed === undefined) return undefined;
          const value = open(keys.xattrs, Buffer.from(name), sealed);
          if (value === undefined) throw FsError.of('EIO');
          return value;
        });
      },
      setxattr(next, node, name, value, flags, killSgid, context) {
        if (!name.startsWith(USER)) return next(node, name, value, flags, killSgid, context);
        if (value.length + SEAL_BYTES > XATTR_MAX) throw FsError.of('E2BIG');
        const sealed = seal(keys.xattrs, Buffer.from(name), value);
        return next(node, name, sealed, flags, killSgid, context);
      },
    },
    { nodeBytes: NODE_BYTES, add: { metrics: figures } },
  );
}

function innerFile<F>(file: SealedFile<F> | undefined): F {
  return file?.inner as F;
}

function newState(): FileState {
  return new FileState();
}

/** What is written is read before, by whole blocks, and goes where the wrapper says. */
function innerFlags(flags: number): number {
  const isWriteOnly = (flags & OpenFlags.ACCESS_MODE) === OpenFlags.WRITE_ONLY;
  const mode = isWriteOnly ? OpenFlags.READ_WRITE : flags & OpenFlags.ACCESS_MODE;
  return (flags & ~(OpenFlags.ACCESS_MODE | OpenFlags.APPEND)) | mode;
}
