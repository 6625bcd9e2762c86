import {
  type Awaitable,
  andThen,
  type Context,
  type Created,
  type DirectoryEntry,
  type Entry,
  FileType,
  FsError,
  OpenFlags,
  RenameFlags,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import { inUpper } from './attributes.js';
import * as changes from '../changes/name-changes.js';
import { openFile } from './files.js';
import { dots, list } from '../tree/listing.js';
import type { OverlayFile, OverlayNode } from '../tree/node.js';
import type { ShownAttributes } from '../tree/shown-attributes.js';
import type { PinnedEntry, Union } from '../tree/union.js';

type NewFile = Created<OverlayNode, OverlayFile>;

/** Look-up, listing, and all changes of names. Changes of the tree are made one at a time. */
export function nameOperations(union: () => Union, shown: ShownAttributes) {
  const changing = <T>(steps: () => Steps<T>): Awaitable<T> => union().changeQueue.run(() => run(steps()));

  /**
   * Copies a large file up ahead of the change. Within the change, all others would wait for it.
   */
  const copiedUpBefore = (parent: OverlayNode, name: string, isKept: boolean): Awaitable<void> =>
    union().upper === undefined || union().writesMetacopy
      ? undefined
      : run(changes.copyUpBeforeChange(union(), parent, name, isKept));

  const creating = <E extends Entry<object>>(
    parent: OverlayNode,
    name: string,
    make: changes.Make<E>,
  ): Awaitable<Entry<OverlayNode>> =>
    andThen(
      changing(() => changes.create(union(), parent, name, make)),
      (seen) => shown.freshEntry(seen),
    );

  function created(seen: PinnedEntry & { made: Created<object, unknown> }, flags: number): NewFile {
    const { made, node } = seen;
    const { layer } = union().upper!;
    const file = { layer, node: node.upper!, file: made.file, flags, moving: undefined };
    return { ...made, ...shown.freshEntry(seen), file };
  }

  /**
   * Opens the file at a name, or creates it. Starts again if another guest creates or removes the
   * name in between.
   */
  function* createOrOpen(
    parent: OverlayNode,
    name: string,
    mode: number,
    flags: number,
    context: Context,
  ): Steps<NewFile> {
    const { backend } = union().writable().layer;
    for (;;) {
      const there = (flags & OpenFlags.EXCL) === 0 ? yield* union().find(parent, name) : undefined;
      if (there !== undefined) return yield* openThere(there, flags, context);
      try {
        const make = (directory: object, newName: string) =>
          backend.create!(directory, newName, mode, flags | OpenFlags.EXCL, context);
        return created(yield* wait(changing(() => changes.create(union(), parent, name, make))), flags);
      } catch (error) {
        const raced = error instanceof FsError && error.code === 'EEXIST';
        if (!raced || (flags & OpenFlags.EXCL) !== 0) throw error;
      }
    }
  }

  function* openThere(there: PinnedEntry, flags: number, context: Context): Steps<NewFile> {
    let isOpen = false;
    try {
      if (there.node.isDirectory) throw FsError.of('EISDIR');
      const opened = yield* wait(openFile(union(), there.node, flags & ~OpenFlags.CREAT, context));
      isOpen = true;
      return { ...opened, ...shown.freshEntry(there) };
    } finally {
      if (!isOpen) union().unpin(there.node);
    }
  }

  return {
    lookup(parent: OverlayNode, name: string): Awaitable<Entry<OverlayNode> | undefined> {
      return shown.entry(union().lookup(parent, name));
    },

    parent({ parent }: OverlayNode): OverlayNode {
      if (parent === undefined) throw FsError.of('ENOENT');
      union().reference(parent);
      return parent;
    },

    forget(node: OverlayNode): void {
      union().forget(node);
    },

    readdir(node: OverlayNode): Awaitable<Iterable<DirectoryEntry>> {
      return run(list(union(), node, Infinity, dots(node)));
    },

    fsyncdir(node: OverlayNode, dataOnly: boolean, context: Context): Awaitable<void> {
      if (node.upper === undefined) return undefined;
      return union().writable().layer.backend.fsyncdir!(node.upper, dataOnly, context);
    },

    syncfs(context: Context): Awaitable<void> {
      return union().writable().layer.backend.syncfs!(context);
    },

    mknod(
      parent: OverlayNode,
      name: string,
      mode: number,
      rdev: number,
      context: Context,
    ): Awaitable<Entry<OverlayNode>> {
      const { layer, marks } = union().writable();
      const isWhiteout = (mode & FileType.MASK) === FileType.CHARACTER && rdev === 0;
      if (isWhiteout && marks.inPlace) throw FsError.of('EPERM');
      return creating(parent, name, (directory, newName) =>
        layer.backend.mknod!(directory, newName, mode, rdev, context),
      );
    },

    mkdir(parent: OverlayNode, name: string, mode: number, context: Context): Awaitable<Entry<OverlayNode>> {
      const { backend } = union().writable().layer;
      return creating(parent, name, (directory, newName) =>
        backend.mkdir!(directory, newName, mode, context),
      );
    },

    symlink(
      parent: OverlayNode,
      name: string,
      target: string,
      context: Context,
    ): Awaitable<Entry<OverlayNode>> {
      const { backend } = union().writable().layer;
      return creating(parent, name, (directory, newName) =>
        backend.symlink!(directory, newName, target, context),
      );
    },

    create(
      parent: OverlayNode,
      name: string,
      mode: number,
      flags: number,
      context: Context,
    ): Awaitable<NewFile> {
      return run(createOrOpen(parent, name, mode, flags, context));
    },

    tmpfile(parent: OverlayNode, mode: number, flags: number, context: Context): Awaitable<NewFile> {
      return andThen(
        changing(() => changes.tmpfile(union(), parent, mode, flags, context)),
        (seen) => created(seen, flags),
      );
    },

    link(
      node: OverlayNode,
      parent: OverlayNode,
      name: string,
      context: Context,
    ): Awaitable<Entry<OverlayNode>> {
      return andThen(
        andThen(node.type === FileType.REGULAR ? run(inUpper(union(), node)) : undefined, () =>
          changing(() => changes.link(union(), node, parent, name, context)),
        ),
        (seen) => shown.freshEntry(seen),
      );
    },

    unlink(parent: OverlayNode, name: string): Awaitable<void> {
      return andThen(copiedUpBefore(parent, name, false), () =>
        changing(() => changes.unlink(union(), parent, name)),
      );
    },

    rmdir(parent: OverlayNode, name: string): Awaitable<void> {
      return changing(() => changes.rmdir(union(), parent, name));
    },

    rename(
      parent: OverlayNode,
      name: string,
      newParent: OverlayNode,
      newName: string,
      flags: number,
    ): Awaitable<void> {
      const isExchange = (flags & RenameFlags.EXCHANGE) !== 0;
      return andThen(copiedUpBefore(parent, name, true), () =>
        andThen(copiedUpBefore(newParent, newName, isExchange), () =>
          changing(() => changes.rename(union(), parent, name, newParent, newName, flags)),
        ),
      );
    },
  };
}
