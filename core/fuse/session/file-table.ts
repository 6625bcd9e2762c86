import type { Attributes, Backing } from '../../backend/index.js';
import type { Validity } from '../wire/reply.js';

/** How long a guest may keep what it is told. */
export interface Validities {
  readonly entry: Validity;
  readonly negative: Validity;
  readonly attributes: Validity;
}

/** A name, by the halves of its directory's id and a hash of its bytes. */
export interface ShownName {
  readonly low: number;
  readonly high: number;
  readonly hash: number;
}

/** How the guest knows a node. */
export interface ShownNode {
  readonly low: number;
  readonly high: number;
  readonly generation: number;
}

/**
 * A name's hash, of its bytes from `start` up to `end`. It is for telling names apart that one node
 * has, not for finding any.
 */
export function hashOfName(bytes: Uint8Array, start: number, end: number): number {
  let hash = end - start;
  for (let i = start; i < end; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
  return hash;
}

/** Who shows files. */
export interface ShownOwner {
  /** Takes lookups back that {@link ShownFiles.showEntry} was given. */
  giveBack(slot: number, lookups: number): void;
  /** A thread told the guest attributes of a node that are not those told last here. */
  toldOtherwise(slot: number): void;
}

/**
 * What a session shows to threads that serve its queues: nodes and open files with what is behind
 * them. Each may be forgotten again; a thread passes on what it does not find. Ids are given by
 * their halves, as signed numbers.
 */
export interface ShownFiles {
  /** The session begins. */
  begin(validities: Validities, owner: ShownOwner): void;
  /**
   * A node that has a descriptor.
   * @param told the attributes that the guest was told just now, if it was.
   */
  showNode(slot: number, low: number, high: number, backing: Backing, told: Attributes | undefined): void;
  /** @param index low half of the `fh`, as `generation` is the high one. */
  showFile(index: number, generation: number, nodeLow: number, nodeHigh: number, backing: Backing): void;
  /**
   * A node that the guest was just told of under a name, with its attributes. It must have an
   * identity.
   * @returns lookups that threads may tell the guest of from here on: they count as the guest's
   * until they are given back.
   */
  showEntry(name: ShownName, slot: number, node: ShownNode, backing: Backing, told: Attributes): number;
  /** The guest opens a node: what threads told of it comes to {@link ShownOwner.toldOtherwise}. */
  settle(slot: number, low: number, high: number): void;
  /** The guest forgets lookups of a node: those not told yet are given back first. */
  hideEntry(slot: number): void;
  hideNode(low: number, high: number): void;
  hideFile(index: number): void;
  /** Hides all. */
  clear(): void;
}
