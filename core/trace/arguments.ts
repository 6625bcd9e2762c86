import { decodeName } from '../backend/index.js';
import * as abi from '../fuse/wire/abi.js';
import type { Layout } from '../fuse/wire/layout.js';
import * as wire from '../fuse/wire/structures.js';

const { Opcode } = abi;
const HEADER = wire.fuse_in_header.bytes;

/** A request in a record: as much of it as is there. What is missing reads as 0, or as ''. */
export class RecordedRequest {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  /** What INIT negotiated. */
  readonly flags: number;

  constructor(bytes: Uint8Array, flags: number) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.flags = flags;
  }

  /** A number of the arguments, as the header's. */
  u32(offset: number): number {
    return offset + 4 <= this.#bytes.length ? this.#view.getUint32(offset, true) : 0;
  }

  u64(offset: number): bigint {
    return offset + 8 <= this.#bytes.length ? this.#view.getBigUint64(offset, true) : 0n;
  }

  /** As many names as there should be, from an offset of the arguments. */
  names(offset: number, count: number): string[] {
    const names: string[] = [];
    let at = HEADER + offset;
    for (let i = 0; i < count; i++) {
      const end = at < this.#bytes.length ? this.#bytes.indexOf(0, at) : -1;
      if (end < 0) return [...names, ...Array.from({ length: count - i }, () => '')];
      names.push(decodeName(this.#bytes, at, end));
      at = end + 1;
    }
    return names;
  }
}

/** How the arguments of an opcode are shown. */
export interface Shape {
  /** Bytes of the structure that comes before the names. */
  readonly bytes: (request: RecordedRequest) => number;
  /** How many names follow. The first one is below the request's node. */
  readonly names: number;
  /** What the second name is: one below another node, or a word. */
  readonly second?: { readonly directory: number | undefined } | 'target';
  /** What the first name is, if it is not a file's. */
  readonly first?: 'attribute';
  /** Whether the reply begins with an entry: the node of the first name. */
  readonly entry?: boolean;
  readonly fields: (request: RecordedRequest) => readonly (readonly [string, string | number | bigint])[];
}

type Fields = readonly (readonly [
  name: string,
  offset: number,
  kind: 'u32' | 'u64' | 'octal' | 'hex' | 'i64',
])[];

function show(request: RecordedRequest, [, offset, kind]: Fields[number]): string | number | bigint {
  const at = HEADER + offset;
  switch (kind) {
    case 'u32':
      return request.u32(at);
    case 'u64':
      return request.u64(at);
    case 'i64':
      return BigInt.asIntN(64, request.u64(at));
    case 'octal':
      return `0${request.u32(at).toString(8)}`;
    case 'hex':
      return `0x${request.u32(at).toString(16)}`;
  }
}

const shape = (fields: Fields, more: Partial<Shape> = {}, bytes = 0): Shape => ({
  bytes: () => bytes,
  names: 0,
  fields: (request) => fields.map((field) => [field[0], show(request, field)] as const),
  ...more,
});

const named = (
  layout: { readonly bytes: number } | undefined,
  fields: Fields,
  more: Partial<Shape> = {},
): Shape => shape(fields, { names: 1, ...more }, layout?.bytes ?? 0);

const transfer = (at: Layout<'offset' | 'size'>): Fields => [
  ['offset', at.offset, 'u64'],
  ['size', at.size, 'u32'],
];

const lock: Fields = [
  ['start', wire.fuse_lk_in.lk + wire.fuse_file_lock.start, 'u64'],
  ['end', wire.fuse_lk_in.lk + wire.fuse_file_lock.end, 'u64'],
];

const LOCK_TYPES = ['read', 'write', 'unlock'];

const locking: Shape = shape([], {
  fields(request) {
    const type = request.u32(HEADER + wire.fuse_lk_in.lk + wire.fuse_file_lock.type);
    const isFlock = (request.u32(HEADER + wire.fuse_lk_in.lk_flags) & abi.LK_FLOCK) !== 0;
    const kind = ['type', LOCK_TYPES[type] ?? type] as const;
    if (isFlock) return [['kind', 'flock'], kind];
    return [kind, ...lock.map((field) => [field[0], show(request, field)] as const)];
  },
});

const { fuse_setattr_in: attr } = wire;

/** What SETATTR sets, by the bit that says so. */
const SETATTR: readonly (readonly [bit: number, Fields[number]])[] = [
  [abi.FATTR_MODE, ['mode', attr.mode, 'octal']],
  [abi.FATTR_UID, ['uid', attr.uid, 'u32']],
  [abi.FATTR_GID, ['gid', attr.gid, 'u32']],
  [abi.FATTR_SIZE, ['size', attr.size, 'u64']],
  [abi.FATTR_ATIME, ['atime', attr.atime, 'i64']],
  [abi.FATTR_MTIME, ['mtime', attr.mtime, 'i64']],
  [abi.FATTR_CTIME, ['ctime', attr.ctime, 'i64']],
];

const setattr: Shape = shape([], {
  fields(request) {
    const valid = request.u32(HEADER + attr.valid);
    return SETATTR.filter(([bit]) => (valid & bit) !== 0).map(
      ([, field]) => [field[0], show(request, field)] as const,
    );
  },
});

const entry = { entry: true } as const;
const renamed = (at: { readonly newdir: number; readonly bytes: number }, fields: Fields): Shape =>
  named(at, fields, { names: 2, second: { directory: HEADER + at.newdir } });

/** The opcodes whose arguments are shown, by number. */
export const shapes: Readonly<Record<number, Shape>> = {
  [Opcode.LOOKUP]: named(undefined, [], entry),
  [Opcode.FORGET]: shape([['lookups', wire.fuse_forget_in.nlookup, 'u64']]),
  [Opcode.BATCH_FORGET]: shape([['nodes', wire.fuse_batch_forget_in.count, 'u32']]),
  [Opcode.SETATTR]: setattr,
  [Opcode.SYMLINK]: named(undefined, [], { ...entry, names: 2, second: 'target' }),
  [Opcode.MKNOD]: named(wire.fuse_mknod_in, [['mode', wire.fuse_mknod_in.mode, 'octal']], entry),
  [Opcode.MKDIR]: named(wire.fuse_mkdir_in, [['mode', wire.fuse_mkdir_in.mode, 'octal']], entry),
  [Opcode.UNLINK]: named(undefined, []),
  [Opcode.RMDIR]: named(undefined, []),
  [Opcode.RENAME]: renamed(wire.fuse_rename_in, []),
  [Opcode.RENAME2]: renamed(wire.fuse_rename2_in, [['flags', wire.fuse_rename2_in.flags, 'hex']]),
  [Opcode.LINK]: named(wire.fuse_link_in, [], entry),
  [Opcode.OPEN]: shape([['flags', wire.fuse_open_in.flags, 'hex']]),
  [Opcode.READ]: shape(transfer(wire.fuse_read_in)),
  [Opcode.WRITE]: shape(transfer(wire.fuse_write_in)),
  [Opcode.FSYNC]: shape([['flags', wire.fuse_fsync_in.fsync_flags, 'hex']]),
  [Opcode.SETXATTR]: {
    names: 1,
    first: 'attribute',
    bytes: ({ flags }) =>
      (flags & abi.InitFlag.SETXATTR_EXT) === 0 ? wire.SETXATTR_IN_COMPAT : wire.fuse_setxattr_in.bytes,
    fields: (request) => [['size', request.u32(HEADER + wire.fuse_setxattr_in.size)]],
  },
  [Opcode.GETXATTR]: named(wire.fuse_getxattr_in, [['size', wire.fuse_getxattr_in.size, 'u32']], {
    first: 'attribute',
  }),
  [Opcode.LISTXATTR]: shape([['size', wire.fuse_getxattr_in.size, 'u32']]),
  [Opcode.REMOVEXATTR]: named(undefined, [], { first: 'attribute' }),
  [Opcode.INIT]: shape([
    ['minor', wire.fuse_init_in.minor, 'u32'],
    ['flags', wire.fuse_init_in.flags, 'hex'],
  ]),
  [Opcode.READDIR]: shape(transfer(wire.fuse_read_in)),
  [Opcode.READDIRPLUS]: shape(transfer(wire.fuse_read_in)),
  [Opcode.GETLK]: locking,
  [Opcode.SETLK]: locking,
  [Opcode.SETLKW]: locking,
  [Opcode.CREATE]: named(
    wire.fuse_create_in,
    [
      ['flags', wire.fuse_create_in.flags, 'hex'],
      ['mode', wire.fuse_create_in.mode, 'octal'],
    ],
    entry,
  ),
  [Opcode.TMPFILE]: shape([['mode', wire.fuse_create_in.mode, 'octal']]),
  [Opcode.IOCTL]: shape([['command', wire.fuse_ioctl_in.cmd, 'hex']]),
  [Opcode.FALLOCATE]: shape([
    ['offset', wire.fuse_fallocate_in.offset, 'u64'],
    ['length', wire.fuse_fallocate_in.length, 'u64'],
    ['mode', wire.fuse_fallocate_in.mode, 'hex'],
  ]),
  [Opcode.LSEEK]: shape([
    ['offset', wire.fuse_lseek_in.offset, 'i64'],
    ['whence', wire.fuse_lseek_in.whence, 'u32'],
  ]),
  [Opcode.COPY_FILE_RANGE]: copied(),
  [Opcode.COPY_FILE_RANGE_64]: copied(),
};

function copied(): Shape {
  const at = wire.fuse_copy_file_range_in;
  return shape([
    ['from', at.off_in, 'u64'],
    ['to', at.off_out, 'u64'],
    ['length', at.len, 'u64'],
  ]);
}
