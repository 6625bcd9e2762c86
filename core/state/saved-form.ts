import * as z from 'zod';

/**
 * The saved form of an export and its sessions: the structures of the envelope, and nothing else.
 * 64-bit numbers are decimal strings and bytes base64, so that JSON carries them. Nodes are
 * referred to by their index in `nodes`.
 */

/**
 * The version of these structures. It grows with every change of them. Every version from
 * {@link OLDEST_VERSION} on is read: what later versions added is optional.
 *
 * - 1: the first.
 * - 2: `held` of a handle.
 * - 3: `lost` of a handle.
 * - 4: `remembered`.
 * - 5: `traced`, and `trace` of a node.
 * - 6: `held` of a node.
 * - 7: `place` of a node that was forgotten.
 */
export const SAVED_VERSION = 7;

/** The oldest version that is read. */
export const OLDEST_VERSION = 1;

/**
 * What is read is checked by these. They are made when something is first read, which few
 * daemons ever do.
 */
function schemas() {
  const index = z.int().nonnegative();
  const word = z.int().min(0).max(0xffffffff);
  const wide = z.string().regex(/^\d{1,20}$/);
  const base64 = z.base64();

  const savedNode = z.object({
    /** The backend's durable key: a string, a number, or bytes. */
    key: z.union([z.object({ s: z.string() }), z.object({ n: z.number() }), z.object({ b: base64 })]),
    /** The halves of the node id, and the generation, as the guests know them. */
    low: word,
    high: word,
    generation: word,
    /** What the backend needs to know beside the key (`Accelerator.trace`). */
    trace: z.string().optional(),
    /** Where it is, of a forgotten node that came from another host (`Elsewhere`). */
    place: z.string().optional(),
    /**
     * As `held` of a handle, for a node that may have lost its name while no handle is open, such
     * as a directory that a process is in.
     */
    held: index.optional(),
  });

  const savedLock = z.object({
    kind: z.enum(['posix', 'flock']),
    /** Number of the session that holds it. */
    session: z.int().positive().max(0x7fffffff),
    node: index,
    owner: wide,
    type: z.int(),
    start: wide,
    end: wide,
    pid: word,
    handle: index,
  });

  const savedHandle = z.object({
    /** Both halves of the `fh`. */
    index,
    generation: word,
    node: index,
    /** The open flags that the backend was given. It gets them again when it reopens the file. */
    flags: word,
    /**
     * Number of the open descriptor that goes along, beside the saved form, to a successor on the
     * same host. Without one, the file is opened again.
     */
    held: index.optional(),
    /** A lock that was set through it is lost: see {@link HandleKind}. */
    lost: z.boolean().optional(),
    /** For a directory: the entries that its stream has pulled. */
    stream: z.object({ entries: base64, complete: z.boolean() }).optional(),
  });

  const savedSession = z.object({
    /** The session's number, to which its locks refer. */
    id: z.int().positive().max(0x7fffffff),
    /** What INIT negotiated. Absent if the guest has not mounted. */
    negotiated: z
      .object({
        minor: index,
        flags: z.int(),
        flags2: z.int(),
        maxReadahead: word,
        maxWrite: word,
        maxPages: word,
      })
      .optional(),
    /** The nodes that the guest knows, each with its lookup count. */
    lookups: z.array(z.tuple([index, z.int().positive()])),
    handles: z.array(savedHandle),
    /** The highest generation that any handle has had. Later handles must have higher ones. */
    handleGeneration: word,
  });

  const savedExport = z.object({
    /** All nodes to which a guest, a handle or a lock refers. The root is first. */
    nodes: z.array(savedNode),
    sessions: z.array(savedSession),
    locks: z.object({
      locks: z.array(savedLock),
      /** Parked lock requests. */
      waiters: z.array(savedLock.extend({ unique: wide })),
    }),
    /** Nodes that guests have forgotten and that are found by their file handles. */
    remembered: z.array(savedNode).optional(),
    /** Nodes are found as after a kill (`Accelerator.leave`): the backend has saved no more. */
    traced: z.boolean().optional(),
  });

  return { savedNode, savedHandle, savedSession, savedExport };
}

type Schemas = ReturnType<typeof schemas>;
let made: Schemas | undefined;

export type SavedNode = z.infer<Schemas['savedNode']>;
export type SavedHandle = z.infer<Schemas['savedHandle']>;
export type SavedSession = z.infer<Schemas['savedSession']>;
export type SavedExport = z.infer<Schemas['savedExport']>;

const MAGIC = Buffer.from('VFSKSAVE');
const HEAD = MAGIC.length + 8;

/**
 * Makes the envelope: eight bytes of magic, then version and length of the JSON as 32-bit
 * little-endian numbers, then the JSON, and at last the bytes of the backend's own state.
 */
export function encodeSaved(saved: SavedExport, backendState: Uint8Array): Uint8Array {
  const json = Buffer.from(JSON.stringify(saved));
  const head = Buffer.alloc(HEAD);
  MAGIC.copy(head);
  head.writeUInt32LE(SAVED_VERSION, MAGIC.length);
  head.writeUInt32LE(json.length, MAGIC.length + 4);
  return Buffer.concat([head, json, backendState]);
}

/**
 * Reads the envelope.
 * @param most bytes that the JSON may have. Default: any number.
 * @throws RangeError if it is no saved export, or of an unknown version.
 */
export function decodeSaved(
  bytes: Uint8Array,
  most = Infinity,
): { saved: SavedExport; backendState: Uint8Array } {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (buffer.length < HEAD || !buffer.subarray(0, MAGIC.length).equals(MAGIC)) {
    throw new RangeError('not a saved export: the first bytes are wrong');
  }
  const version = buffer.readUInt32LE(MAGIC.length);
  if (version < OLDEST_VERSION || version > SAVED_VERSION) {
    throw new RangeError(
      `saved export of version ${version}: this program knows versions ${OLDEST_VERSION} to ${SAVED_VERSION}`,
    );
  }
  const end = HEAD + buffer.readUInt32LE(MAGIC.length + 4);
  if (end > buffer.length) throw new RangeError('saved export: it is cut short');
  if (end - HEAD > most)
    throw new RangeError(`saved export: ${end - HEAD} bytes of JSON are more than ${most}`);
  let json: unknown;
  try {
    json = JSON.parse(buffer.toString('utf8', HEAD, end));
  } catch (error) {
    throw new RangeError('saved export: its JSON is broken', { cause: error });
  }
  made ??= schemas();
  const result = made.savedExport.safeParse(json);
  if (!result.success) {
    throw new RangeError(`saved export: ${z.prettifyError(result.error)}`, { cause: result.error });
  }
  return { saved: result.data, backendState: buffer.subarray(end) };
}
