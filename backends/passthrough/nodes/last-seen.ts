import type { Accelerator } from '../../../core/backend/accelerator.js';
import { FileType, type NodeKey } from '../../../core/backend/index.js';
import { close, O, openat } from '../../../core/system/calls/files.js';
import type { Fd } from '../../../core/system/index.js';
import { putName } from '../calls/call-memory.js';
import { statDescriptor, statMount } from '../calls/stat.js';
import type { Share } from '../share.js';
import { inoOf, textOf } from './durable-keys.js';
import type { Node } from './nodes.js';

/** Parts of `identityOperations`. */
interface Places {
  key(node: Node): Uint8Array;
  /** Where the process that handed over saw the file of a key, below the share. */
  pathOf(key: Uint8Array): string | undefined;
  directoryAt(path: string): Node | undefined;
  /** The node of an open file, if it has this key. Takes over the descriptor. */
  enter(fd: Fd, key: Uint8Array): Node | undefined;
}

/** Separates two places in a trace. */
const OR = '\0';

/** How often directories are gathered anew. More are there only where files are lost. */
const MOST_GATHERED = 64;

/** Directories above each other that are looked for by their names. */
const MOST_ABOVE = 1024;

/**
 * Where files were last seen, for the process that follows one that was killed. Under Landlock a
 * file that the kernel has dropped from memory is only opened again where its directory is known
 * (`NodeFinder.reopen`), and a file without a handle is only found by its name. A trace is the
 * mount and the inode number of the directory, a slash, and the name in it, and another such place:
 * before a rename the new one, of a file with several names the one before. It is a hint: a name is
 * believed where it leads to the file.
 */
export function traceOperations(
  { finder, mounts, nodes, root }: Share,
  { key, pathOf, directoryAt, enter }: Places,
): Required<Pick<Accelerator<Node>, 'trace' | 'tracesHelp' | 'watchTraces' | 'retrace'>> & {
  /** Finds a file without a handle by the name at which it was seen last. */
  readonly recoverByName: (key: Uint8Array) => Node | undefined;
} {
  let given: ReadonlyMap<NodeKey, string> = new Map();
  let givenSize = 0;
  /** The traces by the text of the key. */
  let traces: ReadonlyMap<string, string> | undefined;
  /** Keys of files without handles by their inode numbers, of the traces that are given. */
  let keysByIno: ReadonlyMap<string, readonly Uint8Array[]> | undefined;
  /** What was looked for by its key there. */
  const foundByName = new Map<string, Node | undefined>();
  /**
   * Known directories by their inode numbers, and how many nodes there were when it was made. Under
   * Landlock it is made once for the traces that are given, when first needed: what comes later is
   * without a hint, and no request pays for all nodes again.
   */
  let byIno: ReadonlyMap<string, readonly Node[]> | undefined;
  let gatheredOf = 0;
  let gathered = 0;
  let lastParent: Node | undefined;
  let lastPlace = '';

  function tracesByKey(): ReadonlyMap<string, string> {
    return (traces ??= new Map(
      Array.from(given, ([itsKey, trace]) => [textOf(itsKey as Uint8Array), trace]),
    ));
  }

  /** Directories with an inode number: known ones, and those that can be found by their names. */
  function* directoriesOf(ino: string, depth: number): Generator<Node, void> {
    if (nodes.inoText(root) === ino) yield root;
    keysByIno ??= grouped(given.keys() as Iterable<Uint8Array>, inoOf);
    for (const itsKey of keysByIno.get(ino) ?? []) {
      const text = textOf(itsKey);
      let found = foundByName.get(text);
      if (found === undefined && depth < MOST_ABOVE && !foundByName.has(text)) {
        // Not again while it is looked for: traces may lead in a circle.
        foundByName.set(text, undefined);
        foundByName.set(text, (found = byName(itsKey, depth + 1)));
      }
      if (found !== undefined && nodes.has(found)) yield found;
    }
    if (gatheredOf !== nodes.size && gathered < MOST_GATHERED) byIno = undefined;
    yield* knownDirectories(ino);
  }

  function knownDirectories(ino: string): readonly Node[] {
    if (byIno === undefined) {
      byIno = grouped(nodes, (node) =>
        nodes.fileType(node) === FileType.DIRECTORY ? nodes.inoText(node) : undefined,
      );
      gatheredOf = nodes.size;
      gathered += 1;
    }
    return (byIno.get(ino) ?? []).filter((node) => nodes.has(node));
  }

  /** @param depth how many of its directories are looked for already. */
  function byName(itsKey: Uint8Array, depth: number): Node | undefined {
    for (const place of (tracesByKey().get(textOf(itsKey)) ?? '').split(OR)) {
      const slash = place.indexOf('/');
      if (slash < 0) continue;
      const name = place.slice(slash + 1);
      for (const parent of directoriesOf(inoIn(place.slice(0, slash)), depth)) {
        const node = at(parent, name, itsKey);
        if (node !== undefined) return node;
      }
    }
    return undefined;
  }

  /** The file at a name, if it has the key. */
  function at(parent: Node, name: string, itsKey: Uint8Array): Node | undefined {
    const above = nodes.descriptor(parent);
    const fd = above < 0 ? above : openat(above, putName(name), O.PATH | O.NOFOLLOW, 0);
    if (fd < 0) return undefined;
    if (statDescriptor(fd) < 0) {
      close(fd);
      return undefined;
    }
    if (mounts.find(statMount()) === undefined) finder.discoverMounts();
    const node = enter(fd, itsKey);
    if (node === undefined) return undefined;
    node.parent = parent;
    node.name = name;
    return node;
  }

  function recalled(node: Node): string {
    if (given.size === 0 || node === root) return '';
    return tracesByKey().get(textOf(key(node))) ?? '';
  }

  function directory(place: string): Node | undefined {
    return knownDirectories(inoIn(place)).find((node) => nodes.placeText(node) === place);
  }

  /** The place of a directory. Most files that are seen are in that of the file before. */
  function placeOf(directoryNode: Node): string {
    if (directoryNode !== lastParent) {
      lastParent = directoryNode;
      lastPlace = nodes.placeText(directoryNode);
    }
    return lastPlace;
  }

  finder.recall = (node) => {
    const [trace = ''] = recalled(node).split(OR);
    // What a process that was killed saw is younger than what the one before has handed over.
    const text = trace === '' && node !== root ? (pathOf(key(node)) ?? '') : trace;
    if (text === '') return;
    const end = text.lastIndexOf('/');
    const place = text.slice(0, Math.max(end, 0));
    const parent = trace === '' ? directoryAt(place) : directory(place);
    if (parent === undefined) return;
    node.parent = parent;
    node.name = text.slice(end + 1);
  };

  return {
    tracesHelp: true,
    recoverByName: (itsKey) => (inoOf(itsKey) === undefined ? undefined : byName(itsKey, 0)),
    trace(node) {
      if (!finder.records(node)) return '';
      if (node.parent === undefined) finder.recall?.(node);
      const { parent, name, other } = node;
      if (parent === undefined) return recalled(node);
      if (other === undefined) return nodes.has(parent) ? `${placeOf(parent)}/${name}` : '';
      const places = [{ parent, name }, other];
      return places
        .filter((place) => nodes.has(place.parent))
        .map((place) => `${nodes.placeText(place.parent)}/${place.name}`)
        .join(OR);
    },
    watchTraces(changed) {
      finder.onMoved = changed;
    },
    retrace(before) {
      foundByName.clear();
      if (before === given && before.size === givenSize) return;
      given = before;
      givenSize = before.size;
      traces = undefined;
      byIno = undefined;
      keysByIno = undefined;
    },
  };
}

/** The inode number in what `Nodes.placeText` gives: all but the mount. */
function inoIn(place: string): string {
  return place.slice(place.indexOf(':') + 1);
}

/** Groups values; those without a group are left out. */
function grouped<T>(
  values: Iterable<T>,
  groupOf: (value: T) => string | undefined,
): ReadonlyMap<string, readonly T[]> {
  const groups = new Map<string, T[]>();
  for (const value of values) {
    const group = groupOf(value);
    if (group === undefined) continue;
    const members = groups.get(group);
    if (members === undefined) groups.set(group, [value]);
    else members.push(value);
  }
  return groups;
}
