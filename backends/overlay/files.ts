import {
  type Awaitable,
  andThen,
  type Context,
  FsError,
  type GuestBuffer,
  type IoctlResult,
  isPromise,
  type Opened,
  OpenFlags,
  run,
} from '../../core/backend/index.js';
import { inUpper, topOf } from './attributes.js';
import { DAEMON } from './layer.js';
import type { OverlayFile, OverlayNode } from './node.js';
import type { Union } from './union.js';

/** Opens a file where it is, after its copy-up if it is to be written. */
export function openFile(
  union: Union,
  node: OverlayNode,
  flags: number,
  context: Context,
): Awaitable<Opened<OverlayFile>> {
  const truncates = (flags & OpenFlags.TRUNC) !== 0;
  const writes = (flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY || truncates;
  if (writes && node.upper === undefined) {
    return andThen(run(inUpper(union, node, truncates ? 0 : undefined)), () =>
      openTop(union, node, flags, context),
    );
  }
  return openTop(union, node, flags, context);
}

function openTop(
  union: Union,
  node: OverlayNode,
  flags: number,
  context: Context,
): Awaitable<Opened<OverlayFile>> {
  const { layer, node: inLayer } = topOf(union, node);
  const wrap = (opened: Opened<unknown>): Opened<OverlayFile> => ({
    ...opened,
    file: { layer, node: inLayer, file: opened.file, flags, moving: undefined },
  });
  if (layer.backend.open === undefined) return wrap({ file: undefined });
  return andThen(layer.backend.open(inLayer, flags, context), wrap);
}

/** Open files. One that was opened before its copy-up goes on in the upper at its next use. */
export function fileOperations(union: () => Union) {
  /** The file where the node is now. */
  function current(node: OverlayNode, file: OverlayFile): Awaitable<OverlayFile> {
    if (node.upper === undefined || file.node === node.upper) return file;
    if (file.moving !== undefined) return file.moving;
    const moved = move(node.upper, file);
    if (!isPromise(moved)) return moved;
    file.moving = moved.finally(() => {
      file.moving = undefined;
    });
    return file.moving;
  }

  function move(upper: object, file: OverlayFile): Awaitable<OverlayFile> {
    const { layer } = union().writable();
    const flags = file.flags & ~(OpenFlags.TRUNC | OpenFlags.CREAT | OpenFlags.EXCL);
    const opened = layer.backend.open?.(upper, flags, DAEMON) ?? { file: undefined };
    return andThen(opened, ({ file: now }) => {
      const before = { ...file };
      file.layer = layer;
      file.node = upper;
      file.file = now;
      return andThen(before.layer.backend.release?.(before.node, before.file), () => file);
    });
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
      if (node.upper !== undefined && file.node !== node.upper) {
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
      return andThen(current(node, file), ({ layer, node: inLayer, file: open }) =>
        layer.number === 0 ? layer.backend.fsync?.(inLayer, open, dataOnly, context) : undefined,
      );
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
        const { backend } = to.layer;
        const domain = from.layer.backend.copyDomain;
        const isOneDomain =
          from.layer === to.layer || (domain !== undefined && domain === backend.copyDomain);
        // The guest's kernel then copies by reading and writing.
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

function read(
  { layer, node, file }: OverlayFile,
  buffer: GuestBuffer,
  offset: number,
  context: Context,
): Awaitable<number> {
  if (layer.backend.read === undefined) throw FsError.of('EIO');
  return layer.backend.read(node, file, buffer, offset, context);
}
