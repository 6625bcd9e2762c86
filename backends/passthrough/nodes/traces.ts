import type { Accelerator } from '../../../core/backend/accelerator.js';
import { FileType, type NodeKey } from '../../../core/backend/index.js';
import type { Share } from '../share.js';
import { textOf } from './durable-keys.js';
import type { Node } from './nodes.js';

/** Parts of `identityOperations`. */
interface Places {
  key(node: Node): Uint8Array;
  /** Where the process that handed over saw the file of a key, below the share. */
  pathOf(key: Uint8Array): string | undefined;
  directoryAt(path: string): Node | undefined;
}

/**
 * Where files were last seen, for the process that follows one that was killed: under Landlock a
 * file that the kernel has dropped from memory is only opened again where its directory is known
 * (`NodeFinder.reopen`). A trace is the inode number of the directory, a slash, and the name in it.
 * It is a hint: the name is believed where it leads to the file.
 */
export function traceOperations(
  { finder, nodes, root }: Share,
  { key, pathOf, directoryAt }: Places,
): Pick<Accelerator<Node>, 'trace' | 'tracesHelp' | 'watchTraces' | 'retrace'> {
  if (!finder.recordsNames) return {};
  let given: ReadonlyMap<NodeKey, string> = new Map();
  /** The traces by the text of the key, and known directories by their inode number. */
  let traces = new Map<string, string>();
  let directories = new Map<string, Node>();
  /** How many nodes were known when `directories` was made. */
  let known = 0;

  function recalled(node: Node): string {
    if (given.size === 0 || node === root) return '';
    if (traces.size !== given.size)
      traces = new Map(Array.from(given, ([itsKey, trace]) => [textOf(itsKey as Uint8Array), trace]));
    return traces.get(textOf(key(node))) ?? '';
  }

  function directory(place: string): Node | undefined {
    const found = directories.get(place);
    if (found !== undefined && nodes.has(found)) return found;
    if (nodes.size === known) return undefined;
    known = nodes.size;
    directories = new Map();
    for (const node of nodes)
      if (nodes.fileType(node) === FileType.DIRECTORY) directories.set(nodes.placeText(node), node);
    return directories.get(place);
  }

  finder.recall = (node) => {
    const trace = recalled(node);
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
    trace(node) {
      if (node.parent === undefined) finder.recall?.(node);
      const { parent, name } = node;
      if (parent === undefined) return recalled(node);
      return nodes.has(parent) ? `${nodes.placeText(parent)}/${name}` : '';
    },
    watchTraces(changed) {
      finder.onMoved = changed;
    },
    retrace(before) {
      if (before !== given) traces = new Map();
      given = before;
    },
  };
}
