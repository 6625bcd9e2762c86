import type { Backing } from '../../backend/accelerator.js';
import type { Attributes } from '../../backend/index.js';
import type {
  HandleGeneration,
  HandleIndex,
  NodeGeneration,
  NodeIdHigh,
  NodeIdLow,
  Slot,
} from '../../state/index.js';
import type { Validity } from '../wire/reply.js';
import type { Counters } from './counters.js';

/** How long a guest may keep a name, the absence of a name, and attributes. */
export interface Validities {
  readonly entry: Validity;
  readonly negative: Validity;
  readonly attributes: Validity;
}

/** A name: the halves of its directory's id, and a hash of its bytes. */
export interface EntryName {
  readonly low: NodeIdLow;
  readonly high: NodeIdHigh;
  readonly hash: number;
}

/** A node as the guest knows it: the halves of its id, and its generation. */
export interface EntryNode {
  readonly low: NodeIdLow;
  readonly high: NodeIdHigh;
  readonly generation: NodeGeneration;
}

/**
 * The hash of a name, which lies in `bytes` from `start` up to `end`. It tells the names of one
 * node apart; no name is found by it.
 */
export function hashOfName(bytes: Uint8Array, start: number, end: number): number {
  let hash = end - start;
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
  return hash;
}

/** The session that publishes, as its file table sees it. */
export interface FileTableOwner {
  /** Takes lookups back that {@link FileTable.publishEntry} was given. */
  returnLookups(slot: Slot, lookups: number): void;
  /** A thread gave the guest attributes of a node that differ from those published. */
  attributesDiffer(slot: Slot): void;
}

/**
 * What a session publishes to the threads that serve its queues: nodes and open files, each with
 * its {@link Backing}. The table may forget any of them: a thread that does not find one passes the
 * request on. Ids are given in halves, as signed 32-bit numbers.
 */
export interface FileTable {
  /** What threads are given, to read it. */
  readonly memory: SharedArrayBuffer;
  /** The session begins. */
  begin(validities: Validities, owner: FileTableOwner): void;
  /** Has threads pass every request on from here on, for somebody looks on; or not any more. */
  passAll(isAll: boolean): void;
  /**
   * Publishes a node by its id.
   * @param told the attributes in the reply that the guest is just getting, if there are any.
   */
  publishNode(
    slot: Slot,
    low: NodeIdLow,
    high: NodeIdHigh,
    backing: Backing,
    told: Attributes | undefined,
  ): void;
  /** Publishes an open file. Its `fh` has `index` as its low half and `generation` as its high. */
  publishFile(
    index: HandleIndex,
    generation: HandleGeneration,
    nodeLow: NodeIdLow,
    nodeHigh: NodeIdHigh,
    backing: Backing,
  ): void;
  /**
   * Publishes a node by its identity, which `backing` must have. The guest has just looked it up
   * under this name.
   * @returns the number of lookups that threads may answer from here on. They count as the guest's
   * until {@link FileTableOwner.returnLookups} takes back the rest.
   */
  publishEntry(name: EntryName, slot: Slot, node: EntryNode, backing: Backing, told: Attributes): number;
  /**
   * Calls {@link FileTableOwner.attributesDiffer} if a thread replied with other attributes of the
   * node than were published. To be called when the guest opens it.
   */
  reportDifferences(slot: Slot, low: NodeIdLow, high: NodeIdHigh): void;
  /** To be called before a FORGET is counted: returns the lookups that no thread has used. */
  withdrawEntry(slot: Slot): void;
  withdrawNode(low: NodeIdLow, high: NodeIdHigh): void;
  withdrawFile(index: HandleIndex): void;
  /** Withdraws everything. */
  clear(): void;
  /** Adds what threads have answered since the last call. */
  addTo(counters: Counters): void;
}
