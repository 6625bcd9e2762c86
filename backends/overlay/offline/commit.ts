import {
  DAEMON,
  type Backend,
  type BackendHost,
  run,
  type Steps,
  wait,
} from '../../../core/backend/index.js';
import type { OverlayBackend } from '../backend.js';
import { copyUpName } from '../changes/name-changes.js';
import { copyUpInChange, copyUp } from '../changes/copy-up.js';
import { type Difference, differences } from './diff.js';
import { Layer } from '../layers/layer.js';
import { list } from '../tree/listing.js';
import { type Marks, NameMarks } from '../layers/whiteouts.js';
import type { OverlayNode } from '../tree/node.js';
import { Union } from '../tree/union.js';
import { WorkArea } from '../layers/work-area.js';

/** Marks of a layer that has none: nothing in it is hidden or redirected. */
class NoMarks extends NameMarks {
  readonly #names: Marks | undefined;

  /** @param names gives the names under which guests' xattrs are stored. */
  constructor(names?: Marks) {
    super();
    this.#names = names;
  }

  override reserves(): boolean {
    return false;
  }

  override holds(): boolean {
    return false;
  }

  override escape(name: string): string {
    return this.#names?.escape(name) ?? name;
  }

  override find(layer: Layer, directory: object, name: string): ReturnType<Marks['find']> {
    return layer.lookup(directory, name) as ReturnType<Marks['find']>;
  }

  override whiteouts(): () => undefined {
    return () => undefined;
  }

  override isOpaque(): boolean {
    return false;
  }

  override isImpure(): boolean {
    return false;
  }

  override get(): undefined {
    return undefined;
  }

  override set(): void {}

  override unset(): void {}

  override setOpaque(): void {}
}

/**
 * Makes the upper independent of what the lowers have at other paths. Moved directories are copied
 * up with everything in them, all names of hard-linked files are linked, and content left in lowers
 * is copied up. Guests see no change. Needed before the lowers change.
 */
export async function flatten(overlay: OverlayBackend): Promise<void> {
  const { union } = overlay;
  if (await run(union.writable().work.hasIndexed())) await linkAll(union, union.root);
  for await (const { seen } of differences(union)) {
    if (seen === undefined) continue;
    const { node } = seen;
    if (node.isDirectory && node.redirect !== undefined) await copyUpTree(union, node);
    if (node.isMetacopy) await copyUp(union, node, Infinity);
  }
}

/** Copies up every name of the files that were copied up under one of their names. */
async function linkAll(union: Union, directory: OverlayNode): Promise<void> {
  for (const { name } of await run(list(union, directory))) {
    const seen = await run(union.find(directory, name));
    if (seen === undefined) continue;
    const { node } = seen;
    try {
      if (node.isDirectory) await linkAll(union, node);
      else if (node.indexed) {
        await union.changeQueue.run(() => run(copyUpName(union, node, directory, name)));
      }
    } finally {
      union.unpin(node);
    }
  }
}

async function copyUpTree(union: Union, directory: OverlayNode): Promise<void> {
  const { layer, marks } = union.writable();
  for (const { name } of await run(list(union, directory))) {
    const seen = await run(union.find(directory, name));
    if (seen === undefined) continue;
    try {
      const { node } = seen;
      await union.changeQueue.run(() => run(copyUpName(union, node, directory, name)));
      if (node.isDirectory) await copyUpTree(union, node);
      if (node.isMetacopy) await copyUp(union, node, Infinity);
    } finally {
      union.unpin(seen.node);
    }
  }
  if (directory.lowers.length > 0) await marks.setOpaque(layer, directory.upper!);
}

/**
 * Applies the differences of an overlay to its topmost lower, and empties the upper when all are
 * applied. An interrupted commit is completed by another one. Moved directories must be {@link
 * flatten}ed first, by an overlay mounted before.
 * @param overlay mounted, and used by nobody else
 * @param target another backend of the topmost lower, writable, not mounted
 */
export async function commit(overlay: OverlayBackend, target: Backend, host: BackendHost): Promise<void> {
  const { union: source } = overlay;
  const upper = source.writable();
  const layer = new Layer(0, target, await target.mount(host), new NoMarks(upper.marks));
  const work = await WorkArea.open(layer, [], undefined, () => {});
  const top = new Layer(1, overlay as Backend, source.root, new NoMarks());
  const union = new Union(host, { layer, marks: layer.marks, work }, [top], {
    redirectDir: true,
    metacopy: false,
  });
  for await (const difference of differences(source)) await apply(union, difference);
  await run(work.destroy());
  await target.unmount?.();
  await run(upper.work.emptyUpper());
}

async function apply(union: Union, { path, seen, replaces }: Difference): Promise<void> {
  const names = path.split('/');
  const name = names.pop()!;
  const pinned: OverlayNode[] = [];
  try {
    let parent = union.root;
    for (const part of names) {
      const found = await run(union.find(parent, part));
      // The target never had the directory that something was removed from.
      if (found === undefined) return;
      pinned.push(found.node);
      parent = found.node;
    }
    const isDirectory = seen?.node.isDirectory === true;
    await run(clearPlace(union, parent, name, seen !== undefined && isDirectory && !replaces));
    if (seen === undefined) return;
    const found = await run(union.find(parent, name));
    if (found === undefined) return;
    pinned.push(found.node);
    await copyUp(union, found.node);
    await run(copyUpName(union, found.node, parent, name));
    if (isDirectory) await run(applyAttributes(union, found.node, seen));
  } finally {
    for (const node of pinned) union.unpin(node);
  }
}

/** Removes what the target has at a name, unless it is a directory that is to stay. */
function* clearPlace(union: Union, parent: OverlayNode, name: string, keepsDirectory: boolean): Steps<void> {
  const { layer, work } = union.writable();
  yield* copyUpInChange(union, parent);
  const there = yield* wait(layer.lookup(parent.upper!, name));
  if (there === undefined) return;
  layer.drop(there.node);
  const known = yield* union.find(parent, name);
  if (known === undefined) return;
  try {
    if (keepsDirectory && known.node.isDirectory) return;
    yield* work.discard(parent.upper!, name);
    union.move(known.node, undefined, name);
  } finally {
    union.unpin(known.node);
  }
}

/** Gives a directory that existed before the owner and permissions that it has in the overlay. */
function* applyAttributes(
  union: Union,
  node: OverlayNode,
  { attributes }: NonNullable<Difference['seen']>,
): Steps<void> {
  const { backend } = union.writable().layer;
  const { uid = 0, gid = 0, mode } = attributes;
  yield* wait(backend.setattr?.(node.upper!, { uid, gid }, undefined, DAEMON));
  yield* wait(backend.setattr?.(node.upper!, { mode: mode & 0o7777 }, undefined, DAEMON));
}
