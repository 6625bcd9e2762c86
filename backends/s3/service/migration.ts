import { randomUUID } from 'node:crypto';
import * as z from 'zod';
import type { Elsewhere, NodeMigration } from '../../../core/backend/accelerator.js';
import { FileType, FsError, type GuestBuffer, nameBytes, type NodeKey } from '../../../core/backend/index.js';
import { MOST_FOREIGN_JSON } from '../../../core/backend/limits.js';
import { Deadline } from '../client/deadline.js';
import { fromJson, toJson } from '../journal/staged.js';
import { RESERVED } from '../objects/keys.js';
import { isChanged } from '../read/reader.js';
import { Directory, FileNode, pathOf } from '../tree/nodes.js';
import type { Node } from '../tree/nodes.js';
import type { MountedBucket } from './mounted-bucket.js';

/*
 * What a guest's nodes are, for another host that has the same bucket: u32 length of a JSON text,
 * little-endian, the text, and what is in open files without a name, one after the other.
 */

/** Seconds for the uploads that a guest which leaves waits for. */
const UPLOAD_TIMEOUT_SECONDS = 120;

/** Bytes that removed files of one guest may take with them. */
const MOST_REMOVED_BYTES = 256 * 2 ** 20;

/** Bytes that are read or written at a time. */
const PIECE_BYTES = 2 ** 20;

const posix = z.object({
  metadata: z.record(z.string(), z.string()),
  headers: z.record(z.string(), z.string()),
});

/** A node that has a name. */
const named = z.strictObject({
  path: z.string(),
  kind: z.enum(['file', 'directory']),
  /** The version that an open file was opened in. */
  open: z.strictObject({ etag: z.string(), size: z.int().nonnegative() }).optional(),
});

const saved = z.strictObject({
  version: z.union([z.literal(1), z.literal(2)]),
  nodes: z.array(
    z.tuple([
      z.string(),
      z.union([
        named,
        /** The path of a node that has a name, in version 1. */
        z.string(),
        /** A node without one; `bytes` of a file. Null for a file that nobody has open. */
        z.strictObject({ posix, bytes: z.int().nonnegative().optional() }).nullable(),
      ]),
    ]),
  ),
});

type Saved = z.infer<typeof saved>;
type Place = Saved['nodes'][number][1];
type Named = z.infer<typeof named>;
type Nameless = Exclude<NonNullable<Exclude<Place, string>>, Named>;

/** What is needed of the backend. */
export interface MigrationOwner {
  mounted(): MountedBucket;
  readonly readOnly: boolean;
  /** Has a piece of memory that reads fill. */
  withBuffer<T>(bytes: number, use: (buffer: GuestBuffer) => Promise<T>): Promise<T>;
  /**
   * The node at a path as the bucket has it now, in use.
   * @throws ESTALE if there is none.
   */
  find(path: string): Promise<Node>;
  /** As `ReadingBackend.guard`. */
  guard<T>(operation: () => Promise<T>): Promise<T>;
}

/** A guest's files on their way to another host. What is staged of them is uploaded first. */
export function migrationOperations(owner: MigrationOwner): NodeMigration<Node> {
  return {
    depart: (nodes) => depart(owner, nodes),
    arrive(state) {
      const { places, contents } = decode(state);
      const mounted = owner.mounted();
      // Nothing is believed that was heard before the guest's last changes.
      mounted.refreshedAt = performance.now();
      let answers: Promise<void> | undefined;
      return async (key: NodeKey) => {
        await (answers ??= mustAnswer(mounted));
        return owner.guard(() => arrive(owner, places, contents, key));
      };
    },
  };
}

/**
 * Where forgotten nodes are: `f` or `d`, for a file or a directory, and the path.
 * @param whereIs tells the kind and the path of a node by its key, without asking the bucket.
 */
export function elsewhereOperations(
  owner: MigrationOwner,
  whereIs: (key: NodeKey) => Pick<Named, 'kind' | 'path'> | undefined,
): Elsewhere<Node> {
  return {
    place(key) {
      const found = whereIs(key);
      return found && `${found.kind === 'file' ? 'f' : 'd'}${found.path}`;
    },
    find(place) {
      const kind = place.startsWith('d') ? 'directory' : 'file';
      return owner.guard(() => assume(owner, { kind, path: place.slice(1) }));
    },
  };
}

async function depart(owner: MigrationOwner, all: readonly Node[]): Promise<Uint8Array> {
  const { files, services } = owner.mounted();
  const deadline = Deadline.after(UPLOAD_TIMEOUT_SECONDS);
  await services.pendingDeletes.settledBelow('', deadline);
  try {
    await deadline.wait(files.writeback.flush());
  } catch (error) {
    // What lost a race is kept aside by now, and concerns no upload any more.
    if (files.writeback.files.length > 0)
      throw new Error('not everything could be uploaded', { cause: error });
  }
  const nodes: Saved['nodes'] = [];
  const contents: Uint8Array[] = [];
  let room = MOST_REMOVED_BYTES;
  for (const node of all) {
    if (!node.removed) nodes.push([node.id, placeOf(node)]);
    else if (node.kind === 'directory') nodes.push([node.id, { posix: toJson(node.posix) }]);
    else {
      const isTooLarge = node.opens > 0 && node.size > room;
      if (isTooLarge) services.log.warn({ size: node.size, room }, 'a removed file is too large to go along');
      const bytes = node.opens > 0 && !isTooLarge ? await contentOf(owner, node) : undefined;
      nodes.push([node.id, bytes === undefined ? null : { posix: toJson(node.posix), bytes: bytes.length }]);
      if (bytes === undefined) continue;
      room -= bytes.length;
      contents.push(bytes);
    }
  }
  const text = Buffer.from(JSON.stringify({ version: 2, nodes } satisfies Saved));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  return Buffer.concat([length, text, ...contents]);
}

function placeOf(node: Node): Named {
  const object = node.kind === 'file' ? node.pinned?.object : undefined;
  const open = object === undefined ? {} : { open: { etag: object.etag, size: object.size } };
  return { path: pathOf(node), kind: node.kind, ...open };
}

/**
 * What is in a file; undefined if the bucket does not have it any more.
 * @throws S3Failure, FsError for what may pass: the guest stays where its file is.
 */
async function contentOf(owner: MigrationOwner, node: FileNode): Promise<Uint8Array | undefined> {
  const { files, services } = owner.mounted();
  const content = Buffer.alloc(node.size);
  const file = files.open(node, false);
  try {
    await owner.withBuffer(PIECE_BYTES, async (buffer) => {
      for (let at = 0; at < content.length;) {
        const deadline = Deadline.after(services.options.operationTimeout);
        const count = await files.read(file, buffer, at, deadline);
        if (count === 0) return;
        const wanted = Math.min(count, content.length - at);
        buffer.get(0, content.subarray(at, at + wanted));
        at += wanted;
      }
    });
    return content;
  } catch (error) {
    const isGone = isChanged(error) || (error instanceof FsError && error.code === 'ESTALE');
    if (!isGone) throw error;
    services.log.warn({ error: String(error) }, 'a removed file cannot go along with its guest');
    return undefined;
  } finally {
    files.closed(file);
  }
}

/** @throws FsError EINVAL for bytes that `depart` has not made. */
function decode(state: Uint8Array): {
  places: ReadonlyMap<string, Place>;
  contents: ReadonlyMap<string, Uint8Array>;
} {
  const bytes = Buffer.from(state.buffer, state.byteOffset, state.byteLength);
  let at = bytes.length < 4 ? bytes.length + 1 : 4 + bytes.readUInt32LE(0);
  if (at > bytes.length || at > MOST_FOREIGN_JSON) throw FsError.of('EINVAL');
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString('utf8', 4, at));
  } catch {
    throw FsError.of('EINVAL');
  }
  const { success, data } = saved.safeParse(json);
  if (!success) throw FsError.of('EINVAL');
  const contents = new Map<string, Uint8Array>();
  for (const [key, place] of data.nodes) {
    if (place === null || typeof place === 'string' || !('bytes' in place)) continue;
    if (place.bytes === undefined) continue;
    if (at + place.bytes > bytes.length) throw FsError.of('EINVAL');
    contents.set(key, bytes.subarray(at, at + place.bytes));
    at += place.bytes;
  }
  if (at !== bytes.length) throw FsError.of('EINVAL');
  return { places: new Map(data.nodes), contents };
}

async function arrive(
  owner: MigrationOwner,
  places: ReadonlyMap<string, Place>,
  contents: ReadonlyMap<string, Uint8Array>,
  key: NodeKey,
): Promise<Node> {
  const place = typeof key === 'string' ? places.get(key) : undefined;
  if (place === undefined) throw FsError.of('ESTALE');
  if (place === null) throw FsError.of('ENOENT');
  if (typeof place === 'string') return owner.find(place);
  if ('path' in place) return assume(owner, place);
  return nameless(owner, place, contents.get(key as string));
}

/** @throws Error where the bucket does not answer here: the guest stays where it is. */
async function mustAnswer({ services }: MountedBucket): Promise<void> {
  const { bucket, keys, options } = services;
  try {
    await bucket.list(keys.directory(''), '', undefined, 1, Deadline.after(options.operationTimeout));
  } catch (error) {
    throw new Error('the bucket does not answer', { cause: error });
  }
}

/** A node with a name, in use, of which the bucket is asked when the guest uses it. */
async function assume(owner: MigrationOwner, { path, kind, open }: Named): Promise<Node> {
  const { services, tree } = owner.mounted();
  if (path === '') return tree.root;
  if (!isNamed(path)) throw FsError.of('ESTALE');
  const known = tree.at(path);
  // Somebody here knows it. Guests agree on what it is.
  if (known !== undefined && !known.isAssumed) return owner.find(path);
  const key = services.keys.file(path);
  const object = open && { ...open, key, modified: Number.NaN, storageClass: undefined };
  const node = tree.assume(path, kind, object);
  tree.hold(node);
  return node;
}

/** Whether look-ups could lead to a path. */
function isNamed(path: string): boolean {
  const names = path.split('/');
  return names[0] !== RESERVED && names.every(isName);
}

function isName(name: string): boolean {
  const isPlain = name !== '' && name !== '.' && name !== '..' && !name.includes('\0');
  return isPlain && nameBytes(name).length <= 255;
}

/** A node without a name that is as the one that has left. */
async function nameless(
  { mounted, readOnly }: MigrationOwner,
  { posix: attributes }: Nameless,
  content: Uint8Array | undefined,
): Promise<Node> {
  const { files, services, tree } = mounted();
  const id = `\0${randomUUID()}`;
  const given = fromJson(attributes);
  if (content === undefined) {
    const mode = FileType.DIRECTORY | (given.mode & 0o7777);
    const directory = new Directory(id, tree.root, '', { ...given, mode });
    directory.removed = true;
    tree.enter(directory);
    return directory;
  }
  if (readOnly) throw FsError.of('ESTALE');
  const mode = FileType.REGULAR | (given.mode & 0o7777);
  const node = new FileNode(id, tree.root, '', { ...given, mode }, undefined);
  node.removed = true;
  const deadline = Deadline.after(services.options.operationTimeout);
  try {
    for (let at = 0; at < content.length; at += PIECE_BYTES)
      await files.put(node, at, content.subarray(at, at + PIECE_BYTES), deadline);
    await files.setPosix(node, deadline, () => ({ ...given, mode }));
  } catch (error) {
    await files.discard(node);
    throw error;
  }
  tree.enter(node);
  return node;
}
