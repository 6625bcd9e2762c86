import {
  DAEMON,
  type Awaitable,
  andThen,
  type Context,
  FileType,
  FsError,
  type GuestBuffer,
  type IoctlResult,
  isPromise,
  type Opened,
  OpenFlags,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { inUpper, topOf } from './attributes.js';
import { contentOf } from '../layers/content.js';
import type { LowerNode, OverlayFile, OverlayNode } from '../tree/node.js';
import type { Union } from '../tree/union.js';

/** Opens a file in the layer that has its content. A file to be written is copied up first. */
export function openFile(
  union: Union,
  node: OverlayNode,
  flags: number,
  context: Context,
): Awaitable<Opened<OverlayFile>> {
  const truncates = (flags & OpenFlags.TRUNC) !== 0;
  const writes = (flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY || truncates;
  if (writes && (node.upper === undefined || node.isMetacopy)) {
    return andThen(run(inUpper(union, node, truncates ? 0 : Infinity)), () =>
      openTop(union, node, flags, context),
    );
  }
  if (node.isMetacopy) return run(openMetacopy(union, node, flags, context));
  return openTop(union, node, flags, context);
}

/**
 * Opens a file for reading whose content is in a lower. A crash between a truncation and the end of
 * the copy-up leaves a size that differs from the content's; the copy-up is then completed first.
 */
function* openMetacopy(
  union: Union,
  node: OverlayNode,
  flags: number,
  context: Context,
): Steps<Opened<OverlayFile>> {
  const { layer, node: inLayer } = yield* wait(contentOf(union, node));
  const { size } = yield* wait(layer.backend.getattr(inLayer, undefined, DAEMON));
  const { size: shown } = yield* wait(union.upper!.layer.backend.getattr(node.upper!, undefined, DAEMON));
  if (shown !== size) yield* inUpper(union, node, Infinity);
  return yield* wait(openTop(union, node, flags, context));
}

function openTop(
  union: Union,
  node: OverlayNode,
  flags: number,
  context: Context,
): Awaitable<Opened<OverlayFile>> {
  const where = node.type === FileType.REGULAR ? contentOf(union, node) : topOf(union, node);
  if (isPromise(where)) return where.then((content) => openIn(content, flags, context));
  return openIn(where, flags, context);
}

function openIn({ layer, node }: LowerNode, flags: number, context: Context): Awaitable<Opened<OverlayFile>> {
  const wrap = (opened: Opened<unknown>): Opened<OverlayFile> => ({
    ...opened,
    file: { layer, node, file: opened.file, flags, moving: undefined },
  });
  if (layer.backend.open === undefined) return wrap({ file: undefined });
  return andThen(layer.backend.open(node, flags, context), wrap);
}

/**
 * Open files. A file that is copied up while it is open is opened again in the upper at its next
 * use.
 */
export function fileOperations(union: () => Union) {
  /** Syncs the metadata of a file in the upper while its content is in a lower. */
  function* syncMetadata(upper: object): Steps<void> {
    const { backend } = union().writable().layer;
    if (backend.fsync === undefined) return;
    const opened = yield* wait(backend.open?.(upper, OpenFlags.READ_ONLY, DAEMON));
    const file = opened?.file;
    try {
      yield* wait(backend.fsync(upper, file, false, DAEMON));
    } finally {
      if (opened !== undefined) yield* wait(backend.release?.(upper, file));
    }
  }

  return {
    open(node: OverlayNode, flags: number, context: Context): Awaitable<Opened<OverlayFile>> {
      return openFile(union(), node, flags, context);
    },

    read(
      node: OverlayNode,
      file: OverlayFile,
      buffer: GuestBuffer,
      offset: number,
      context: Context,
    ): Awaitable<number> {
      if (node.content !== undefined && file.node !== node.content.node) {
        return andThen(current(node, file), (open) => read(open, buffer, offset, context));
      }
      return read(file, buffer, offset, context);
    },

    write(
      _node: OverlayNode,
      { layer, node, file }: OverlayFile,
      buffer: GuestBuffer,
      offset: number,
      flags: number,
      context: Context,
    ): Awaitable<number> {
      if (layer.backend.write === undefined || layer.number !== 0) throw FsError.of('EBADF');
      return layer.backend.write(node, file, buffer, offset, flags, context);
    },

    flush(_node: OverlayNode, { layer, node, file }: OverlayFile, context: Context): Awaitable<void> {
      return layer.backend.flush?.(node, file, context);
    },

    release(_node: OverlayNode, file: OverlayFile): Awaitable<void> {
      return andThen(file.moving, () => file.layer.backend.release?.(file.node, file.file));
    },

    fsync(node: OverlayNode, file: OverlayFile, dataOnly: boolean, context: Context): Awaitable<void> {
      return andThen(current(node, file), ({ layer, node: inLayer, file: open }) => {
        if (layer.number === 0) return layer.backend.fsync?.(inLayer, open, dataOnly, context);
        return node.isMetacopy && !dataOnly ? run(syncMetadata(node.upper!)) : undefined;
      });
    },

    fallocate(
      _node: OverlayNode,
      { layer, node, file }: OverlayFile,
      mode: number,
      offset: number,
      length: number,
      context: Context,
    ): Awaitable<void> {
      if (layer.backend.fallocate === undefined || layer.number !== 0) throw FsError.of('EBADF');
      return layer.backend.fallocate(node, file, mode, offset, length, context);
    },

    lseek(
      node: OverlayNode,
      file: OverlayFile,
      offset: number,
      whence: 'data' | 'hole',
      context: Context,
    ): Awaitable<number> {
      return andThen(current(node, file), ({ layer: { backend }, node: inLayer, file: open }) => {
        if (backend.lseek !== undefined) return backend.lseek(inLayer, open, offset, whence, context);
        return andThen(backend.getattr(inLayer, open, context), ({ size = 0 }) => {
          if (offset >= size) throw FsError.of('ENXIO');
          return whence === 'data' ? offset : size;
        });
      });
    },

    copyFileRange(
      node: OverlayNode,
      file: OverlayFile,
      offset: number,
      _toNode: OverlayNode,
      to: OverlayFile,
      toOffset: number,
      length: number,
      context: Context,
    ): Awaitable<number> {
      return andThen(current(node, file), (from) => {
        const { backend, copyDomain } = to.layer;
        const domain = from.layer.copyDomain;
        const isOneDomain = from.layer === to.layer || (domain !== undefined && domain === copyDomain);
        // The guest's kernel copies by reading and writing then.
        if (!isOneDomain) throw FsError.of('EXDEV');
        if (backend.copyFileRange === undefined) throw FsError.of('EOPNOTSUPP');
        return backend.copyFileRange(
          from.node,
          from.file,
          offset,
          to.node,
          to.file,
          toOffset,
          length,
          context,
        );
      });
    },

    ioctl(
      node: OverlayNode,
      file: OverlayFile,
      command: number,
      input: Uint8Array,
      outputSize: number,
      context: Context,
    ): Awaitable<IoctlResult> {
      return andThen(current(node, file), ({ layer: { backend }, node: inLayer, file: open }) => {
        if (backend.ioctl === undefined) throw FsError.of('ENOTTY');
        return backend.ioctl(inLayer, open, command, input, outputSize, context);
      });
    },
  };
}

/** The open file in the layer that has the content now. */
function current(node: OverlayNode, file: OverlayFile): Awaitable<OverlayFile> {
  const { content } = node;
  if (content === undefined || file.node === content.node) return file;
  if (file.moving !== undefined) return file.moving;
  const moved = move(content, file);
  if (!isPromise(moved)) return moved;
  file.moving = moved.finally(() => {
    file.moving = undefined;
  });
  return file.moving;
}

/** Opens a file again in the layer that has the content now. */
function move({ layer, node }: LowerNode, file: OverlayFile): Awaitable<OverlayFile> {
  const flags = file.flags & ~(OpenFlags.TRUNC | OpenFlags.CREAT | OpenFlags.EXCL);
  const opened = layer.backend.open?.(node, flags, DAEMON) ?? { file: undefined };
  return andThen(opened, ({ file: now }) => {
    const before = { ...file };
    file.layer = layer;
    file.node = node;
    file.file = now;
    return andThen(before.layer.backend.release?.(before.node, before.file), () => file);
  });
}

function read(
  { layer, node, file }: OverlayFile,
  buffer: GuestBuffer,
  offset: number,
  context: Context,
): Awaitable<number> {
  if (layer.backend.read === undefined) throw FsError.of('EIO');
  return layer.backend.read(node, file, buffer, offset, context);
}
