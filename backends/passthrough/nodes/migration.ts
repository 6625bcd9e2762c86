import { readlinkSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Elsewhere, NodeMigration } from '../../../core/backend/accelerator.js';
import {
  type Awaitable,
  decodeName,
  FileType,
  FsError,
  nameBytes,
  type NodeKey,
} from '../../../core/backend/index.js';
import { MOST_CONTENT_ALONG } from '../../../core/backend/limits.js';
import type { Fd } from '../../../core/system/index.js';
import { ownMounts } from '../../../core/system/calls/own-mounts.js';
import { statDescriptor, statLinks } from '../calls/stat.js';
import type { Share } from '../share.js';
import { isKey, isRootKey, leadsTo, pathOf } from './durable-keys.js';
import type { Node } from './nodes.js';
import { packRemoved, unpackRemoved } from './removed-files.js';

/*
 * What another daemon needs to find a guest's files:
 *
 *   u8 version, u8 how: 0 by path, 1 by path and key, 2 by key (the path saves time)
 *   then for each file: u16 length of the key, u16 length of the path, or REMOVED, UNKNOWN or
 *   ATTACHED; the key, the path; with ATTACHED in the place of the path: u32 length, and the file
 *   itself, as `removed-files.ts` has it
 *
 * Version 1 had no ATTACHED.
 */

const VERSION = 2;
const OLDEST_VERSION = 1;
const How = { PATH: 0, VERIFIED: 1, HANDLE: 2 } as const;
const HEADER_BYTES = 2;

/**
 * In the place of a path's length: the file has no name any more, its name was not found, or it has
 * none and is open, and goes along.
 */
const REMOVED = 0xffff;
const UNKNOWN = 0xfffe;
const ATTACHED = 0xfffd;

/** Nodes that are looked at before other guests get a turn. */
const NODES_PER_TURN = 64;

/** How nodes are found by keys and paths: `finding` of `identityOperations`. */
interface Finding {
  key(node: Node): Uint8Array;
  resolveAt(path: string, given?: Uint8Array): Node | undefined;
  resolveHandle(given: Uint8Array): Node | undefined;
  translate(given: Uint8Array): Uint8Array;
  enterFile(fd: Fd): Node | undefined;
}

/**
 * A guest's files on their way to another host.
 * @param recover finds a file by a key that this daemon gave.
 */
export function migrationOperations(
  share: Share,
  { key, resolveAt, resolveHandle, translate, enterFile }: Finding,
  recover: (key: NodeKey) => Node,
): { readonly migration: NodeMigration<Node>; readonly elsewhere: Elsewhere<Node> } {
  const { nodes, options, log } = share;
  const ownHow =
    options.migrationMode === 'file-handles'
      ? How.HANDLE
      : options.migrationVerifyHandles
        ? How.VERIFIED
        : How.PATH;

  /** A path that leads to the file now, or why there is none. */
  function pathTo(node: Node): Uint8Array | typeof REMOVED | typeof UNKNOWN {
    const fd = nodes.descriptor(node);
    if (fd < 0) return REMOVED;
    if (statDescriptor(fd) < 0) return UNKNOWN;
    if (statLinks() === 0) return REMOVED;
    const found = pathOf(share, fd);
    if (found !== undefined && found.length < ATTACHED && leadsTo(share, decodeName(found), fd)) return found;
    const named = namesOf(share, node);
    return named !== undefined && leadsTo(share, named, fd) ? nameBytes(named) : UNKNOWN;
  }

  /** The file itself, where it is removed and a guest uses it still. */
  async function contentsOf(node: Node, most: number): Promise<Uint8Array | undefined> {
    const isUsed = node.open !== undefined || nodes.fileType(node) === FileType.DIRECTORY;
    const fd = isUsed ? nodes.descriptor(node) : -1;
    if (fd < 0) return undefined;
    try {
      const packed = await packRemoved(share, fd as Fd, most);
      if (packed === undefined) log.warn({ most }, 'a removed file is too large to go along with its guest');
      return packed;
    } catch (error) {
      log.warn({ err: error }, 'a removed file cannot go along with its guest');
      return undefined;
    }
  }

  async function depart(all: readonly Node[]): Promise<Uint8Array> {
    const parts: Uint8Array[] = [Uint8Array.of(VERSION, ownHow)];
    let room = MOST_CONTENT_ALONG;
    for (const [index, node] of all.entries()) {
      if (index % NODES_PER_TURN === NODES_PER_TURN - 1) await nextTurn();
      if (node === share.root) continue;
      const path = pathTo(node);
      const name = key(node);
      const isFound = typeof path !== 'number';
      const attached = path === REMOVED ? await contentsOf(node, room) : undefined;
      if (attached !== undefined) {
        room -= attached.length;
        parts.push(lengths(name.length, ATTACHED), name, longLength(attached.length), attached);
        continue;
      }
      parts.push(lengths(name.length, isFound ? path.length : path), name);
      if (isFound) parts.push(path);
    }
    return Buffer.concat(parts);
  }

  function arrive(state: Uint8Array): (given: NodeKey) => Awaitable<Node> {
    const view = Buffer.from(state.buffer, state.byteOffset, state.byteLength);
    const how = view[1];
    const version = view[0] ?? 0;
    if (version < OLDEST_VERSION || version > VERSION || how === undefined || how > How.HANDLE)
      throw FsError.of('EINVAL');
    const places = new Map<string, string | Uint8Array | typeof REMOVED | typeof UNKNOWN>();
    for (let from = HEADER_BYTES; from < view.length;) {
      if (from + 4 > view.length) throw FsError.of('EINVAL');
      let middle = from + 4 + view.readUInt16LE(from);
      const name = view.toString('latin1', from + 4, middle);
      let length = view.readUInt16LE(from + 2);
      const isAttached = length === ATTACHED && version > 1;
      if (isAttached) {
        if (middle + 4 > view.length) throw FsError.of('EINVAL');
        length = view.readUInt32LE(middle);
        middle += 4;
      }
      const place = !isAttached && (length === REMOVED || length === UNKNOWN) ? length : undefined;
      const end = place === undefined ? middle + length : middle;
      if (end > view.length) throw FsError.of('EINVAL');
      places.set(name, isAttached ? view.subarray(middle, end) : (place ?? decodeName(view, middle, end)));
      from = end;
    }
    const finding = finder();
    return (given) => {
      if (!isKey(given)) throw FsError.of('ESTALE');
      if (isRootKey(given)) return share.root;
      const place = places.get(Buffer.from(given).toString('latin1')) ?? UNKNOWN;
      if (typeof place === 'object') return unpackRemoved(share, place, enterFile);
      const node = finding(how, given, typeof place === 'string' ? place : undefined);
      if (node === undefined) throw FsError.of(place === REMOVED ? 'ENOENT' : 'ESTALE');
      return node;
    };
  }

  /** How a file is found here by the key and the path that it had there. */
  function finder(): (how: number, given: Uint8Array, path: string | undefined) => Node | undefined {
    share.finder.discoverMounts();
    const root = readlinkSync(`/proc/self/fd/${share.descriptor(share.root)}`);
    return (how, given, path) => {
      const wanted = how === How.PATH ? undefined : translate(given);
      let node: Node | undefined;
      if (path !== undefined && isPlain(path) && ownMounts.above(`${root}/${path}`) === undefined)
        node = resolveAt(path, wanted);
      return node ?? (how === How.HANDLE ? resolveHandle(wanted!) : undefined);
    };
  }

  /** The key of the directory in base64 and the name in it; or, after a slash, the path. */
  function seen(node: Node): string | undefined {
    const { parent, name } = node;
    if (parent !== undefined && name !== '' && (parent === share.root || nodes.has(parent)))
      return `${base64(key(parent))}/${name}`;
    const path = pathTo(node);
    return typeof path === 'number' ? undefined : `/${decodeName(path)}`;
  }

  /**
   * The path by the name that a file was seen under: the kernel tells those of directories at any
   * time, and of other files only as long as it has their names in memory.
   */
  function pathSeen(node: Node, text: string): Uint8Array | undefined {
    const slash = text.indexOf('/');
    const name = text.slice(slash + 1);
    const above = slash === 0 ? '' : pathOfKey(bytesOf(text.slice(0, slash)));
    if (above === undefined) return undefined;
    const path = above === '' ? name : `${above}/${name}`;
    return leadsTo(share, path, nodes.descriptor(node) as Fd) ? nameBytes(path) : undefined;
  }

  /** Finds a file by a key that this daemon gave, for as long as `use` takes. */
  function whileFound<T>(given: NodeKey, use: (node: Node) => T): T {
    const { size } = nodes;
    const node = recover(given);
    try {
      return use(node);
    } finally {
      if (nodes.size > size) nodes.forget(node);
    }
  }

  /** The path of a directory; '' for the root. */
  function pathOfKey(given: Uint8Array): string | undefined {
    if (isRootKey(given)) return '';
    const path = whileFound(given, pathTo);
    return typeof path === 'number' ? undefined : decodeName(path);
  }

  /** A digit that says how, the key in base64, a space, and the path. */
  function placeOf(given: NodeKey, text: string | undefined): string | undefined {
    const path = whileFound(given, (node) => {
      const now = pathTo(node);
      return now === UNKNOWN && text !== undefined ? (pathSeen(node, text) ?? UNKNOWN) : now;
    });
    if (path === REMOVED || (path === UNKNOWN && ownHow !== How.HANDLE)) return undefined;
    return `${ownHow}${base64(given as Uint8Array)} ${typeof path === 'number' ? '' : decodeName(path)}`;
  }

  function find(text: string): Node {
    const [, said, given, path] = PLACE.exec(text) ?? [];
    const bytes = bytesOf(given ?? '');
    const node = isKey(bytes) && !isRootKey(bytes) ? finder()(Number(said), bytes, path) : undefined;
    if (node === undefined) throw FsError.of('ESTALE');
    return node;
  }

  const begin = (): void => {
    share.finder.recordsAll = true;
  };
  return { migration: { depart, arrive }, elsewhere: { begin, seen, place: placeOf, find } };
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64url');
}

function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64url'));
}

const PLACE = /^([012])([^ ]+) (.*)$/s;

/** The path by the names under which directories and file were last seen, if that is recorded. */
function namesOf({ root, nodes }: Share, node: Node): string | undefined {
  const names: string[] = [];
  for (let at = node; at !== root;) {
    const { parent, name } = at;
    if (parent === undefined || name === '' || names.length > MOST_NAMES) return undefined;
    if (parent !== root && !nodes.has(parent)) return undefined;
    names.unshift(name);
    at = parent;
  }
  return names.join('/');
}

/** A path of 4,096 bytes has no more. */
const MOST_NAMES = 2048;

/** Whether a path goes straight down. */
function isPlain(path: string): boolean {
  return path.split('/').every((name) => name !== '' && name !== '.' && name !== '..');
}

function longLength(bytes: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(bytes).buffer);
}

function lengths(key: number, path: number): Uint8Array {
  return new Uint8Array(Uint16Array.of(key, path).buffer);
}
