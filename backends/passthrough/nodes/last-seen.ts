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
  /**
   * The traces by the text of the key, and known directories by their inode number. Made once for
   * the traces that are given, when first needed: what comes later is without a hint, and no
   * request pays for all nodes again.
   */
  let traces: ReadonlyMap<string, string> | undefined;
  let directories: ReadonlyMap<string, Node> | undefined;

  function recalled(node: Node): string {
    if (given.size === 0 || node === root) return '';
    traces ??= new Map(Array.from(given, ([itsKey, trace]) => [textOf(itsKey as Uint8Array), trace]));
    return traces.get(textOf(key(node))) ?? '';
  }

  function directory(place: string): Node | undefined {
    directories ??= new Map(
      Array.from(nodes)
        .filter((node) => nodes.fileType(node) === FileType.DIRECTORY)
        .map((node) => [nodes.placeText(node), node]),
    );
    const found = directories.get(place);
    return found !== undefined && nodes.has(found) ? found : undefined;
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
      if (before === given) return;
      given = before;
      traces = undefined;
      directories = undefined;
    },
  };
}
