import assert from 'node:assert/strict';
import { OPCODE_END } from '../../core/fuse/wire/abi.js';
import { RequestBytes, type FuseClient, Op, ROOT } from './fuse-client.js';
import type { Random } from './random.js';

/* FUSE requests as a hostile guest makes them: mostly well formed, with values at the edges. */

const TEXTS = 'a b c d file dir . .. a/b / ../.. system.posix_acl_access user.x nul\0inside é'
  .split(' ')
  .concat('', 'x'.repeat(255), 'x'.repeat(256));
const NAMES: readonly Uint8Array[] = [
  ...TEXTS.map((text) => Buffer.from(text)),
  Uint8Array.of(0xff, 0xfe),
  Uint8Array.of(0xed, 0xa0, 0x80),
];

/** Ordinary ones first. */
const NUMBERS: readonly bigint[] =
  '0 1 2 3 7 8 16 4095 4096 65536 1048576 16777215 0x80000000 0xffffffff 0x100000000 0x1fffffffffffff 0x20000000000000 0x7fffffffffffffff 0x8000000000000000 0xffffffffffffffff'
    .split(' ')
    .map(BigInt);

interface Handle {
  readonly fh: bigint;
  readonly node: bigint;
}

/**
 * What a guest may know: ids and handles that replies gave, kept for reuse whether still good or
 * not.
 */
export class Guesses {
  readonly nodes: bigint[] = [ROOT, ROOT, ROOT, 0n, 2n, (1n << 64n) - 1n];
  readonly files: Handle[] = [{ fh: 0n, node: ROOT }];
  readonly directories: Handle[] = [{ fh: 1n << 32n, node: ROOT }];

  /** Keeps the ids and handles of a reply to a request about `node`. */
  learn(opcode: number, node: bigint, reply: Uint8Array): void {
    const view = new DataView(reply.buffer, reply.byteOffset, reply.byteLength);
    if (reply.length < 32 || view.getInt32(4, true) !== 0) return;
    const value = view.getBigUint64(16, true);
    if (ENTRIES.has(opcode) && reply.length >= 144) keep(this.nodes, value);
    if (opcode === Op.CREATE || opcode === Op.TMPFILE)
      keep(this.files, { fh: view.getBigUint64(144, true), node: value });
    if (opcode === Op.OPEN) keep(this.files, { fh: value, node });
    if (opcode === Op.OPENDIR) keep(this.directories, { fh: value, node });
  }
}

/** Keeps the latest. */
function keep<T>(list: T[], value: T): void {
  if (list.length > 30) list.splice(6, 1);
  list.push(value);
}

const ENTRIES = new Set<number>([Op.LOOKUP, Op.MKNOD, Op.MKDIR, Op.SYMLINK, Op.LINK, Op.CREATE, Op.TMPFILE]);
const OF_DIRECTORIES = new Set<number>([Op.READDIR, Op.READDIRPLUS, Op.RELEASEDIR, Op.FSYNCDIR]);
/**
 * READ, WRITE, RELEASE, FSYNC, FLUSH, the locks, IOCTL, FALLOCATE, LSEEK and both COPY_FILE_RANGE.
 */
const OF_FILES = new Set<number>([15, 16, 18, 20, 25, 31, 32, 33, 39, 43, 46, 47, 53]);
/** Opcodes that end most of the state. They are sent seldom. */
const ENDINGS = new Set<number>([Op.INIT, Op.DESTROY]);

function argumentsOf(random: Random, guesses: Guesses, opcode: number, own: Handle): Uint8Array {
  const fields = new RequestBytes();
  const number = (): bigint => (random.chance(80) ? random.pick(NUMBERS.slice(0, 12)) : random.pick(NUMBERS));
  const word = (): number => Number(BigInt.asUintN(32, number()));
  const handle = (): bigint => own.fh;
  const node = (): bigint => random.pick(guesses.nodes);
  const name = (): Uint8Array => random.pick(NAMES);
  switch (opcode) {
    case Op.LOOKUP:
    case Op.UNLINK:
    case Op.RMDIR:
    case Op.REMOVEXATTR:
      return fields.name(name()).bytes();
    case Op.FORGET:
      return fields.u64(random.chance(95) ? 1n : number()).bytes();
    case Op.INTERRUPT:
      return fields.u64(number()).bytes();
    case Op.BATCH_FORGET:
      fields.u32(random.below(5)).u32(0);
      for (let i = random.below(5); i > 0; i--) fields.u64(node()).u64(random.chance(95) ? 1n : number());
      return fields.bytes();
    case Op.GETATTR:
      return fields.u32(random.below(2)).u32(0).u64(handle()).bytes();
    case Op.SETATTR:
      fields
        .u32(random.next() & 0xfff)
        .u32(0)
        .u64(handle())
        .u64(number())
        .u64(0);
      return fields
        .u64(number())
        .u64(number())
        .u64(number())
        .u32(word())
        .u32(word())
        .u32(word())
        .u32(word())
        .raw(new Uint8Array(16))
        .bytes();
    case Op.SYMLINK:
      return fields.name(name()).name(name()).bytes();
    case Op.MKNOD:
      return fields.u32(0o100644).u32(0).u32(0o22).u32(0).name(name()).bytes();
    case Op.MKDIR:
      return fields.u32(0o755).u32(0).name(name()).bytes();
    case Op.RENAME:
      return fields.u64(node()).name(name()).name(name()).bytes();
    case Op.RENAME2:
      return fields.u64(node()).u32(random.below(16)).u32(0).name(name()).name(name()).bytes();
    case Op.LINK:
      return fields.u64(node()).name(name()).bytes();
    case Op.OPEN:
    case Op.OPENDIR:
      return fields
        .u32(random.pick([0, 1, 2, 0o1002, 0o2001]))
        .u32(random.below(2))
        .bytes();
    case Op.CREATE:
    case Op.TMPFILE:
      return fields
        .u32(random.pick([2, 0o202, 0o102]))
        .u32(0o644)
        .u32(0)
        .u32(0)
        .name(name())
        .bytes();
    case Op.READ:
    case Op.READDIR:
    case Op.READDIRPLUS:
      return fields
        .u64(handle())
        .u64(number())
        .u32(random.chance(90) ? random.below(9000) : word())
        .u32(0)
        .u64(0)
        .u64(0)
        .bytes();
    case Op.WRITE: {
      const size = random.below(5000);
      fields
        .u64(handle())
        .u64(number())
        .u32(random.chance(90) ? size : word())
        .u32(random.below(8))
        .u64(0)
        .u64(0);
      return fields.raw(new Uint8Array(size)).bytes();
    }
    case Op.RELEASE:
    case Op.RELEASEDIR:
      return fields.u64(handle()).u32(0).u32(random.below(4)).u64(number()).bytes();
    case Op.FLUSH:
      return fields.u64(handle()).u64(0).u64(number()).bytes();
    case Op.FSYNC:
    case Op.FSYNCDIR:
      return fields.u64(handle()).u32(random.below(2)).u32(0).bytes();
    case Op.SETXATTR: {
      const value = random.bytes(random.below(20));
      return fields
        .u32(random.chance(90) ? value.length : word())
        .u32(random.below(4))
        .name(name())
        .raw(value)
        .bytes();
    }
    case Op.GETXATTR:
      return fields
        .u32(random.chance(50) ? 0 : word())
        .u32(0)
        .name(name())
        .bytes();
    case Op.LISTXATTR:
      return fields.u32(word()).u32(0).bytes();
    case Op.GETLK:
    case Op.SETLK:
    case Op.SETLKW:
      fields.u64(handle()).u64(number()).u64(number()).u64(number()).u32(random.below(4)).u32(1);
      return fields.u32(random.below(2)).u32(0).bytes();
    case Op.FALLOCATE:
      return fields.u64(handle()).u64(number()).u64(number()).u32(random.below(4)).u32(0).bytes();
    case Op.LSEEK:
      return fields.u64(handle()).u64(number()).u32(random.below(6)).u32(0).bytes();
    case Op.COPY_FILE_RANGE:
    case 53: {
      const to = random.pick(guesses.files);
      fields.u64(handle()).u64(number()).u64(to.node).u64(to.fh);
      return fields
        .u64(number())
        .u64(number())
        .u64(random.chance(90) ? 0n : 1n)
        .bytes();
    }
    case Op.IOCTL:
      return fields.u64(handle()).u32(0).u32(word()).u64(0).u32(word()).u32(word()).bytes();
    default:
      return random.bytes(random.below(64));
  }
}

/** One request: mostly well-formed, then perhaps mutated. */
export function makeRequest(
  random: Random,
  guesses: Guesses,
  client: FuseClient,
): { opcode: number; node: bigint; bytes: Uint8Array } {
  let opcode = random.chance(97) ? random.below(OPCODE_END + 1) : random.next();
  if (ENDINGS.has(opcode) && random.chance(98)) opcode = Op.CREATE;
  const own = random.pick(OF_DIRECTORIES.has(opcode) ? guesses.directories : guesses.files);
  const throughHandle = OF_FILES.has(opcode) || OF_DIRECTORIES.has(opcode);
  const node = throughHandle && random.chance(90) ? own.node : random.pick(guesses.nodes);
  let bytes = client.encode(opcode, node, argumentsOf(random, guesses, opcode, own));
  const view = new DataView(bytes.buffer);
  if (random.chance(10)) {
    // Lengths that lie, or a request that ends early or late; the header says so in half of the
    // cases.
    const length = Math.max(0, bytes.length + random.below(40) - 24);
    const changed = new Uint8Array(length);
    changed.set(bytes.subarray(0, length));
    if (random.chance(50) && length >= 4) new DataView(changed.buffer).setUint32(0, length, true);
    bytes = changed;
    return { opcode, node, bytes };
  }
  const mutation = random.below(100);
  if (mutation < 5) view.setUint32(0, random.next(), true);
  else if (mutation < 10) view.setUint16(36, random.chance(70) ? random.below(8) : random.next(), true);
  else if (mutation < 25) {
    for (let i = 1 + random.below(3); i > 0; i--) bytes[16 + random.below(bytes.length - 16)] = random.next();
  }
  return { opcode, node, bytes };
}

/** Checks a reply as Linux does, and keeps its ids and handles. */
export function checkReply(reply: Uint8Array, opcode: number, node: bigint, guesses: Guesses): void {
  if (reply.length === 0) return;
  assert.ok(reply.length >= 16, `a reply of ${reply.length} bytes`);
  const view = new DataView(reply.buffer);
  assert.equal(view.getUint32(0, true), reply.length);
  const error = view.getInt32(4, true);
  assert.ok(error <= 0 && error > -4096, `error ${error}`);
  guesses.learn(opcode, node, reply);
}
