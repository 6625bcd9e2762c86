import { DAEMON, type Steps, wait } from '../../../core/backend/index.js';
import type { Layer } from './layer.js';
import type { OverlayNode } from '../tree/node.js';

/*
 * Marks of a copied-up file: what it was copied from (`overlay.kit.origin`), so that it keeps its
 * identity and inode number, and its link count (`overlay.nlink`, as in Linux
 * `fs/overlayfs/util.c`).
 */

/** The file in a lower that a file was copied from. */
export interface Origin {
  readonly ino: number | undefined;
  readonly links: number;
  readonly identity: string;
}

/** A file's link count; the fields are those of `OverlayNode`. */
export interface Links {
  readonly indexed: boolean;
  readonly linkDelta: number;
}

/**
 * The text of an origin mark: inode number in the union or `-`, the lower's link count, and the
 * identity.
 */
export function originText(node: OverlayNode, links: number): string {
  return `${node.ino ?? '-'} ${links} ${node.identity}`;
}

/** The origin of a file in the upper. */
export function* readOrigin(layer: Layer, upperNode: object): Steps<Origin | undefined> {
  return parseOrigin(yield* wait(layer.marks.get(layer, upperNode, 'kit.origin')));
}

function parseOrigin(text: string | undefined): Origin | undefined {
  const match = text === undefined ? null : /^(-|\d{1,16}) (\d{1,10}) (\d{1,2}:.+)$/s.exec(text);
  if (match === null) return undefined;
  const ino = match[1] === '-' ? undefined : Number(match[1]);
  if (ino !== undefined && !Number.isSafeInteger(ino)) return undefined;
  return { ino, links: Number(match[2]), identity: match[3]! };
}

/**
 * Reads `overlay.nlink` of a file that came from a lower: `U±n` is relative to the upper's link
 * count. `L±n`, written while the file is copied up, is relative to the lower's.
 */
export function* readLinks(layer: Layer, upperNode: object, type: number): Steps<Links | undefined> {
  if (!layer.marks.holds(type)) return undefined;
  const text = yield* wait(layer.marks.get(layer, upperNode, 'nlink'));
  const match = text === undefined ? null : /^([LU])([+-]\d{1,9})$/.exec(text);
  if (match === null) return undefined;
  const delta = Number(match[2]);
  if (match[1] === 'U') return { indexed: true, linkDelta: delta };
  const origin = yield* readOrigin(layer, upperNode);
  const { nlink = 1 } = yield* wait(layer.backend.getattr(upperNode, undefined, DAEMON));
  return { indexed: true, linkDelta: delta + (origin?.links ?? nlink) - nlink };
}
