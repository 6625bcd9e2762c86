import { andThen, type Awaitable, type Entry, FsError, type NodeKey } from '../../backend/index.js';
import {
  NO_SLOT,
  ROOT_SLOT,
  type NodeIdHigh,
  type NodeIdLow,
  type RememberedNode,
} from '../../state/index.js';
import { InitFlag } from '../wire/abi.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import { fuse_in_header } from '../wire/structures.js';

/**
 * Looks up `.` or `..`: the guest has a file handle (open_by_handle_at(2)) of a node that its
 * kernel has forgotten, and of a directory it wants to know where it is (Linux `fs/fuse/inode.c`,
 * `fuse_get_dentry` and `fuse_get_parent`).
 * @returns undefined for every other name.
 */
export function lookUpDots(session: Session, request: Request): Promise<Entry<object>> | undefined {
  const dots = session.has(InitFlag.EXPORT_SUPPORT) ? session.in.dots() : 0;
  if (dots === 0) return undefined;
  return dots === 1 ? lookUpById(session, request) : lookUpParent(session, request);
}

async function lookUpParent(session: Session, request: Request): Promise<Entry<object>> {
  const { nodes, backend } = session;
  const slot = session.node();
  if (slot === ROOT_SLOT || backend.parent === undefined) throw FsError.of('ENOENT');
  return entryOf(session, await backend.parent(nodes.node(slot), request.context), request);
}

/** Finds the node with the request's node id. @throws ESTALE if nobody knows it any more. */
async function lookUpById(session: Session, request: Request): Promise<Entry<object>> {
  const { ints } = session.in;
  const at = fuse_in_header.nodeid >> 2;
  const low = ints[at] as NodeIdLow;
  const high = ints[at + 1] as NodeIdHigh;
  const { nodes } = session;
  const slot = nodes.find(low, high);
  if (slot !== NO_SLOT) return entryOf(session, nodes.node(slot), request);
  const remembered = nodes.remembered.find(low, high);
  if (remembered === undefined) throw FsError.of('ESTALE');
  const node = await findAgain(session, remembered);
  enterAgain(session, node, remembered);
  return entryOf(session, node, request);
}

function findAgain(session: Session, { key, place }: RememberedNode): Awaitable<object> {
  const { nodes, backend, accelerator } = session;
  if (place !== undefined) {
    if (accelerator.elsewhere === undefined) throw FsError.of('ESTALE');
    return accelerator.elsewhere.find(place);
  }
  accelerator.retrace?.(nodes.remembered.traces);
  return accelerator.recover?.(key) ?? backend.resolve!(key);
}

/** Gives a node the id that it had. @throws ESTALE if it has another one by now. */
function enterAgain(
  { nodes, backend }: Session,
  node: object,
  { low, high, generation, key, place }: RememberedNode,
): void {
  if (place === undefined && !isSameKey(backend.key!(node), key)) {
    nodes.discard(node);
    throw FsError.of('ESTALE');
  }
  const slot = nodes.restore(node, low, high, generation);
  if (slot === NO_SLOT) {
    nodes.discard(node);
    throw FsError.of('ENFILE');
  }
  if (nodes.idLow(slot) === low && nodes.idHigh(slot) === high) return;
  nodes.discard(node);
  throw FsError.of('ESTALE');
}

function isSameKey(one: NodeKey, other: NodeKey): boolean {
  if (typeof one !== 'object' || typeof other !== 'object') return one === other;
  return Buffer.compare(one, other) === 0;
}

async function entryOf({ nodes, backend }: Session, node: object, request: Request): Promise<Entry<object>> {
  try {
    // Copied at once: the backend may fill one object for each answer.
    return await andThen(backend.getattr(node, undefined, request.context), (attributes) => ({
      node,
      attributes: { ...attributes },
    }));
  } catch (error) {
    nodes.discard(node);
    throw error;
  }
}
