/**
 * Wire layouts of the vhost-user protocol and the rules for each message. "Spec" below is QEMU's
 * `docs/interop/vhost-user.rst`; section names follow it. All numbers are in machine byte order,
 * which is little-endian on every machine that Node supports with koffi.
 */

/** Message types that the front-end sends (spec "Front-end message types"). */
export const Request = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SEND_RARP: 19,
  NET_SET_MTU: 20,
  SET_BACKEND_REQ_FD: 21,
  IOTLB_MSG: 22,
  SET_VRING_ENDIAN: 23,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  CREATE_CRYPTO_SESSION: 26,
  CLOSE_CRYPTO_SESSION: 27,
  POSTCOPY_ADVISE: 28,
  POSTCOPY_LISTEN: 29,
  POSTCOPY_END: 30,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  GPU_SET_SOCKET: 33,
  RESET_DEVICE: 34,
  VRING_KICK: 35,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
  GET_SHARED_OBJECT: 41,
  SET_DEVICE_STATE_FD: 42,
  CHECK_DEVICE_STATE: 43,
  GET_SHMEM_CONFIG: 44,
} as const;

/** Name of a message type. */
export type RequestName = keyof typeof Request;

const requestNames = new Map<number, RequestName>(
  Object.entries(Request).map(([name, value]) => [value, name as RequestName]),
);

/** Name of a message type for people: `SET_OWNER`, or `request 99`. */
export function requestName(request: number): string {
  return requestNames.get(request) ?? `request ${request}`;
}

/** Bits of the header's flags (spec "Header"). */
export const HeaderFlags = { VERSION_MASK: 0x3, VERSION: 0x1, REPLY: 0x4, NEED_REPLY: 0x8 } as const;

/**
 * Virtio and vhost feature bits that matter here (virtio 1.2 section 6, spec "Communication",
 * `linux/vhost.h`).
 */
export const Feature = {
  LOG_ALL: 1n << 26n,
  RING_INDIRECT_DESC: 1n << 28n,
  RING_EVENT_IDX: 1n << 29n,
  PROTOCOL_FEATURES: 1n << 30n,
  VERSION_1: 1n << 32n,
} as const;

/** Protocol feature bits (spec "Protocol features"). */
export const ProtocolFeature = {
  MQ: 1n << 0n,
  LOG_SHMFD: 1n << 1n,
  REPLY_ACK: 1n << 3n,
  BACKEND_REQ: 1n << 5n,
  CONFIG: 1n << 9n,
  INFLIGHT_SHMFD: 1n << 12n,
  RESET_DEVICE: 1n << 13n,
  CONFIGURE_MEM_SLOTS: 1n << 15n,
  STATUS: 1n << 16n,
  DEVICE_STATE: 1n << 19n,
} as const;

/** Bytes of a message's header: request, flags, size. */
export const HEADER_SIZE = 12;

/** Most payload bytes of any message: the device configuration space ends at 4 KiB. */
export const MAX_PAYLOAD_BYTES = 4096;

/**
 * Most regions of a memory table, thus most descriptors with one message (spec "Memory regions
 * description").
 */
export const MAX_REGIONS = 8;

/** Most regions a front-end may add one by one: what GET_MAX_MEM_SLOTS answers. */
export const MAX_MEM_SLOTS = 509;

/** Entries of the largest ring (virtio 1.2 section 2.7: "maximum Queue Size value is 32768"). */
export const MAX_RING_SIZE = 32768;

/**
 * Bytes of `struct virtio_fs_config` without `notify_buf_size`, which VIRTIO_FS_F_NOTIFICATION
 * adds.
 */
export const CONFIG_SIZE = 40;

/**
 * A message that breaks a rule of the protocol. The text names the message, the value and the rule.
 */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** A message's header. `size` counts the payload's bytes. */
export interface Header {
  readonly request: number;
  readonly needReply: boolean;
  readonly size: number;
}

/** A memory region (spec "Memory regions description"). All in bytes, and below 2^53. */
export interface Region {
  readonly guestAddress: number;
  readonly size: number;
  readonly userAddress: number;
  readonly mmapOffset: number;
}

/** Spec "Inflight description". In bytes. GET_INFLIGHT_FD asks with `size` and `offset` of 0. */
export interface Inflight {
  readonly size: number;
  readonly offset: number;
  readonly queues: number;
  readonly queueSize: number;
}

/**
 * A message of the front-end, checked against every rule that needs no knowledge of the device's
 * state.
 */
export type FrontEndMessage =
  | { readonly type: EmptyRequest }
  | { readonly type: ValueRequest; readonly value: bigint }
  | { readonly type: VringStateRequest; readonly index: number; readonly num: number }
  | { readonly type: VringFdRequest; readonly index: number; readonly polling: boolean }
  | {
      readonly type: 'SET_VRING_ADDR';
      readonly index: number;
      /** Modifications of the used ring are to be logged (VHOST_VRING_F_LOG). */
      readonly log: boolean;
      readonly descriptor: number;
      readonly used: number;
      readonly available: number;
      /** Guest address by which the used ring is logged. */
      readonly logAddress: number;
    }
  | { readonly type: 'SET_MEM_TABLE'; readonly regions: readonly Region[] }
  | { readonly type: 'ADD_MEM_REG' | 'REM_MEM_REG'; readonly region: Region }
  | { readonly type: 'SET_LOG_BASE'; readonly size: number; readonly offset: number }
  | { readonly type: InflightRequest; readonly inflight: Inflight }
  | { readonly type: 'SET_DEVICE_STATE_FD'; readonly direction: StateDirection }
  | { readonly type: 'GET_CONFIG'; readonly offset: number; readonly size: number; readonly flags: number }
  | {
      readonly type: 'SET_CONFIG';
      readonly offset: number;
      readonly bytes: Uint8Array;
      readonly flags: number;
    };

type EmptyRequest =
  | 'GET_FEATURES'
  | 'SET_OWNER'
  | 'RESET_OWNER'
  | 'SET_LOG_FD'
  | 'GET_PROTOCOL_FEATURES'
  | 'GET_QUEUE_NUM'
  | 'SET_BACKEND_REQ_FD'
  | 'RESET_DEVICE'
  | 'GET_MAX_MEM_SLOTS'
  | 'CHECK_DEVICE_STATE'
  | 'GET_STATUS';
type ValueRequest = 'SET_FEATURES' | 'SET_PROTOCOL_FEATURES' | 'SET_STATUS';
type VringStateRequest = 'SET_VRING_NUM' | 'SET_VRING_BASE' | 'GET_VRING_BASE' | 'SET_VRING_ENABLE';
type InflightRequest = 'GET_INFLIGHT_FD' | 'SET_INFLIGHT_FD';
type VringFdRequest = 'SET_VRING_KICK' | 'SET_VRING_CALL' | 'SET_VRING_ERR';

/** Which way a device's state goes (spec "Device state transfer parameters"). */
export type StateDirection = 'save' | 'load';

/** Message types that are served. */
export type SupportedRequest = FrontEndMessage['type'];

/**
 * Rule of one message: payload bytes (least and most), descriptors (least and most), and what gates
 * it.
 */
interface Rule {
  readonly payload: readonly [number, number];
  readonly fds: readonly [number, number];
  /** Protocol feature that must have been negotiated. */
  readonly feature?: keyof typeof ProtocolFeature;
  /**
   * The message has a reply body, so that NEED_REPLY changes nothing (spec
   * "VHOST_USER_PROTOCOL_F_REPLY_ACK").
   */
  readonly reply?: true;
}

const NONE = [0, 0] as const;
const U64 = [8, 8] as const;
const STATE = [8, 8] as const;
const ADDRESSES = [40, 40] as const;
const SINGLE_REGION = [40, 40] as const;
const LOG = [16, 16] as const;
/** 20 bytes. With the padding of a C structure, as libvhost-user and QEMU have it, 24. */
const INFLIGHT = [20, 24] as const;
const STATE_TRANSFER = [8, 8] as const;
const CONFIG = [12 + 1, MAX_PAYLOAD_BYTES] as const;
// Header of 8 and 32 bytes each region. User-Mode Linux 6.x sends the 72 bytes of a two-region
// table with one region.
const MEMORY_TABLE = [8, 8 + 32 * MAX_REGIONS] as const;
const ONE = [1, 1] as const;
const OPTIONAL = [0, 1] as const;

// GET_QUEUE_NUM and RESET_DEVICE need no negotiation: the spec allows them once the back-end has
// offered the feature.
const rules: { readonly [name in SupportedRequest]: Rule } = {
  GET_FEATURES: { payload: NONE, fds: NONE, reply: true },
  SET_FEATURES: { payload: U64, fds: NONE },
  SET_OWNER: { payload: NONE, fds: NONE },
  RESET_OWNER: { payload: NONE, fds: NONE },
  SET_MEM_TABLE: { payload: MEMORY_TABLE, fds: [0, MAX_REGIONS] },
  SET_LOG_BASE: { payload: LOG, fds: ONE, feature: 'LOG_SHMFD', reply: true },
  SET_LOG_FD: { payload: NONE, fds: ONE },
  SET_VRING_NUM: { payload: STATE, fds: NONE },
  SET_VRING_ADDR: { payload: ADDRESSES, fds: NONE },
  SET_VRING_BASE: { payload: STATE, fds: NONE },
  GET_VRING_BASE: { payload: STATE, fds: NONE, reply: true },
  SET_VRING_KICK: { payload: U64, fds: OPTIONAL },
  SET_VRING_CALL: { payload: U64, fds: OPTIONAL },
  SET_VRING_ERR: { payload: U64, fds: OPTIONAL },
  GET_PROTOCOL_FEATURES: { payload: NONE, fds: NONE, reply: true },
  SET_PROTOCOL_FEATURES: { payload: U64, fds: NONE },
  GET_QUEUE_NUM: { payload: NONE, fds: NONE, reply: true },
  SET_VRING_ENABLE: { payload: STATE, fds: NONE },
  SET_BACKEND_REQ_FD: { payload: NONE, fds: ONE, feature: 'BACKEND_REQ' },
  GET_CONFIG: { payload: CONFIG, fds: NONE, feature: 'CONFIG', reply: true },
  SET_CONFIG: { payload: CONFIG, fds: NONE, feature: 'CONFIG' },
  GET_INFLIGHT_FD: { payload: INFLIGHT, fds: NONE, feature: 'INFLIGHT_SHMFD', reply: true },
  SET_INFLIGHT_FD: { payload: INFLIGHT, fds: ONE, feature: 'INFLIGHT_SHMFD' },
  RESET_DEVICE: { payload: NONE, fds: NONE },
  GET_MAX_MEM_SLOTS: { payload: NONE, fds: NONE, feature: 'CONFIGURE_MEM_SLOTS', reply: true },
  ADD_MEM_REG: { payload: SINGLE_REGION, fds: ONE, feature: 'CONFIGURE_MEM_SLOTS' },
  // "For compatibility with existing incorrect implementations, the back-end MAY accept … one file
  // descriptor."
  REM_MEM_REG: { payload: SINGLE_REGION, fds: OPTIONAL, feature: 'CONFIGURE_MEM_SLOTS' },
  SET_STATUS: { payload: U64, fds: NONE, feature: 'STATUS' },
  GET_STATUS: { payload: NONE, fds: NONE, feature: 'STATUS', reply: true },
  SET_DEVICE_STATE_FD: { payload: STATE_TRANSFER, fds: ONE, feature: 'DEVICE_STATE', reply: true },
  CHECK_DEVICE_STATE: { payload: NONE, fds: NONE, feature: 'DEVICE_STATE', reply: true },
};

/** Whether a message type is answered with a body of its own. */
export function hasReply(request: number): boolean {
  return rules[requestName(request) as SupportedRequest]?.reply === true;
}

/**
 * Reads and checks a header.
 * @throws ProtocolError for one after which the stream can't be followed.
 */
export function decodeHeader(bytes: Uint8Array): Header {
  const view = viewOf(bytes);
  const request = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const size = view.getUint32(8, true);
  const name = requestName(request);
  const { VERSION_MASK, VERSION, REPLY, NEED_REPLY } = HeaderFlags;
  // "Lower 2 bits are the version (currently 0x01)"
  check((flags & VERSION_MASK) === VERSION, name, `version ${flags & VERSION_MASK} is not ${VERSION}`);
  // "Bit 2 is the reply flag - needs to be sent on each reply from the back-end"
  check((flags & REPLY) === 0, name, 'a request has the reply flag');
  check((flags & ~(VERSION_MASK | NEED_REPLY)) === 0, name, `unknown flags 0x${(flags >>> 0).toString(16)}`);
  check(size <= MAX_PAYLOAD_BYTES, name, `payload of ${size} bytes is more than ${MAX_PAYLOAD_BYTES}`);
  return { request, needReply: (flags & NEED_REPLY) !== 0, size };
}

/**
 * Checks and reads a message.
 * @param fds how many descriptors came with it.
 * @param negotiated the protocol features that the front-end has acknowledged.
 * @throws ProtocolError for one that is not served, or breaks a rule of its type.
 */
export function decodeMessage(
  header: Header,
  payload: Uint8Array,
  fds: number,
  negotiated: bigint,
): FrontEndMessage {
  const name = requestName(header.request);
  const rule = Object.hasOwn(rules, name) ? rules[name as SupportedRequest] : undefined;
  if (rule === undefined) throw new ProtocolError(`${name}: not supported`);
  const type = name as SupportedRequest;
  if (rule.feature !== undefined) {
    const bit = ProtocolFeature[rule.feature];
    check((negotiated & bit) !== 0n, name, `protocol feature ${rule.feature} has not been negotiated`);
  }
  inRange(payload.length, rule.payload, name, 'payload bytes');
  inRange(fds, rule.fds, name, 'file descriptors');
  const view = viewOf(payload);
  switch (type) {
    case 'SET_FEATURES':
    case 'SET_PROTOCOL_FEATURES':
      return { type, value: view.getBigUint64(0, true) };
    case 'SET_STATUS': {
      const value = view.getBigUint64(0, true);
      // virtio 1.2 section 4.1.4.3: device_status is 8 bits.
      check(value <= 0xffn, name, `status ${value} is more than 255`);
      return { type, value };
    }
    case 'SET_VRING_NUM':
    case 'SET_VRING_BASE':
    case 'GET_VRING_BASE':
    case 'SET_VRING_ENABLE':
      return decodeVringState(type, view);
    case 'SET_VRING_KICK':
    case 'SET_VRING_CALL':
    case 'SET_VRING_ERR':
      return decodeVringFd(type, view, fds);
    case 'SET_VRING_ADDR':
      return decodeVringAddresses(view);
    case 'SET_MEM_TABLE':
      return decodeMemoryTable(view, fds);
    case 'ADD_MEM_REG':
    case 'REM_MEM_REG':
      // 64-bit padding comes first (spec "Single memory region description").
      return { type, region: decodeRegion(name, view, 8) };
    case 'SET_LOG_BASE': {
      const size = address(name, 'log size', view, 0);
      const offset = address(name, 'log offset', view, 8);
      check(size > 0, name, 'the log is empty');
      return { type, size, offset };
    }
    case 'GET_INFLIGHT_FD':
    case 'SET_INFLIGHT_FD':
      return { type, inflight: decodeInflight(type, view) };
    case 'SET_DEVICE_STATE_FD': {
      const direction = view.getUint32(0, true);
      const phase = view.getUint32(4, true);
      check(direction <= 1, type, `direction ${direction} is neither 0 (save) nor 1 (load)`);
      check(phase === 0, type, `phase ${phase} is not 0 (stopped)`);
      return { type, direction: direction === 0 ? 'save' : 'load' };
    }
    case 'GET_CONFIG':
    case 'SET_CONFIG':
      return decodeConfig(type, payload);
    default:
      return { type };
  }
}

/** Spec "A vring state description": index u32, num u32. */
function decodeVringState(type: VringStateRequest, view: DataView): FrontEndMessage {
  const index = view.getUint32(0, true);
  const num = view.getUint32(4, true);
  if (type === 'SET_VRING_NUM') {
    // virtio 1.2 section 2.7: "Queue Size value is always a power of 2."
    const valid = num > 0 && num <= MAX_RING_SIZE && (num & (num - 1)) === 0;
    check(valid, type, `ring size ${num} is not a power of 2 from 1 to ${MAX_RING_SIZE}`);
  } else if (type === 'SET_VRING_BASE') {
    // "the 16-bit next descriptor index to process in the Available Ring"
    check(num <= 0xffff, type, `base ${num} is more than 65535`);
  } else if (type === 'SET_VRING_ENABLE') {
    check(num <= 1, type, `state ${num} is neither 0 nor 1`);
  }
  return { type, index, num };
}

/** "Bits (0-7) of the payload contain the vring index. Bit 8 is the invalid FD flag." */
function decodeVringFd(type: VringFdRequest, view: DataView, fds: number): FrontEndMessage {
  const value = view.getBigUint64(0, true);
  check(value <= 0x1ffn, type, `reserved bits are set in 0x${value.toString(16)}`);
  const polling = (value & 0x100n) !== 0n;
  check(
    polling === (fds === 0),
    type,
    polling ? 'a descriptor comes with the invalid FD flag' : 'no descriptor',
  );
  return { type, index: Number(value & 0xffn), polling };
}

/** Spec "A vring address description"; alignments from virtio 1.2 section 2.7. */
function decodeVringAddresses(view: DataView): FrontEndMessage {
  const type = 'SET_VRING_ADDR';
  const index = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const descriptor = address(type, 'descriptor table', view, 8);
  const used = address(type, 'used ring', view, 16);
  const available = address(type, 'available ring', view, 24);
  // VHOST_VRING_F_LOG is the only flag. Without it, the log address means nothing.
  check((flags & ~1) === 0, type, `unknown flags 0x${(flags >>> 0).toString(16)}`);
  check(descriptor % 16 === 0, type, 'the descriptor table is not aligned to 16 bytes');
  check(available % 2 === 0, type, 'the available ring is not aligned to 2 bytes');
  check(used % 4 === 0, type, 'the used ring is not aligned to 4 bytes');
  const log = (flags & 1) !== 0;
  const logAddress = log ? address(type, 'log address', view, 32) : 0;
  return { type, index, log, descriptor, used, available, logAddress };
}

/** Spec "Memory regions description": number u32, padding u32, then the regions. */
function decodeMemoryTable(view: DataView, fds: number): FrontEndMessage {
  const type = 'SET_MEM_TABLE';
  const count = view.getUint32(0, true);
  check(count <= MAX_REGIONS, type, `${count} regions are more than ${MAX_REGIONS}`);
  check(view.byteLength >= 8 + 32 * count, type, `${view.byteLength} bytes hold no ${count} regions`);
  // "The size and ordering of the fds matches the number and ordering of memory regions."
  check(fds === count, type, `${fds} file descriptors for ${count} regions`);
  const regions = Array.from({ length: count }, (_, i) => decodeRegion(type, view, 8 + 32 * i));
  for (const [i, one] of regions.entries()) {
    for (const other of regions.slice(0, i)) checkDisjoint(type, one, other);
  }
  return { type, regions };
}

function decodeRegion(name: string, view: DataView, at: number): Region {
  const guestAddress = address(name, 'guest address', view, at);
  const size = address(name, 'region size', view, at + 8);
  const userAddress = address(name, 'user address', view, at + 16);
  const mmapOffset = address(name, 'mmap offset', view, at + 24);
  check(size > 0, name, 'a region is empty');
  for (const start of [guestAddress, userAddress, mmapOffset]) {
    check(Number.isSafeInteger(start + size), name, `a region of ${size} bytes at ${start} wraps around`);
  }
  return { guestAddress, size, userAddress, mmapOffset };
}

/**
 * Refuses regions that share a guest or user address: translation would be ambiguous.
 * @throws ProtocolError
 */
export function checkDisjoint(name: string, a: Region, b: Region): void {
  const apart = (x: number, y: number) => x + a.size <= y || y + b.size <= x;
  check(
    apart(a.guestAddress, b.guestAddress),
    name,
    `two regions overlap at guest address ${hex(a.guestAddress)}`,
  );
  check(
    apart(a.userAddress, b.userAddress),
    name,
    `two regions overlap at user address ${hex(a.userAddress)}`,
  );
}

/** Spec "Inflight description": size u64, offset u64, number of queues u16, queue size u16. */
export function decodeInflight(type: string, view: DataView): Inflight {
  const size = address(type, 'size', view, 0);
  const offset = address(type, 'offset', view, 8);
  return { size, offset, queues: view.getUint16(16, true), queueSize: view.getUint16(18, true) };
}

/** Spec "Virtio device config space": offset u32, size u32, flags u32, then `size` bytes. */
function decodeConfig(type: 'GET_CONFIG' | 'SET_CONFIG', payload: Uint8Array): FrontEndMessage {
  const view = viewOf(payload);
  const offset = view.getUint32(0, true);
  const size = view.getUint32(4, true);
  const flags = view.getUint32(8, true);
  check(
    size > 0 && payload.length === 12 + size,
    type,
    `${payload.length - 12} bytes come for a size of ${size}`,
  );
  check(
    offset + size <= CONFIG_SIZE,
    type,
    `bytes ${offset} to ${offset + size} of a space of ${CONFIG_SIZE}`,
  );
  // 0: writable fields, 1: live migration.
  check(flags <= 1, type, `unknown flags ${flags}`);
  return type === 'GET_CONFIG'
    ? { type, offset, size, flags }
    : { type, offset, bytes: payload.slice(12), flags };
}

/**
 * `struct virtio_fs_config` (virtio 1.2 section 5.11.4).
 * @throws RangeError for a tag that does not fit.
 */
export function encodeConfigSpace(tag: string, requestQueues: number): Uint8Array {
  const bytes = new Uint8Array(CONFIG_SIZE);
  const name = new TextEncoder().encode(tag);
  if (name.length === 0 || name.length > 36) throw new RangeError(`tag "${tag}": not 1 to 36 bytes of UTF-8`);
  bytes.set(name);
  viewOf(bytes).setUint32(36, requestQueues, true);
  return bytes;
}

/** A message of the front-end, or a reply to one. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  const view = viewOf(bytes);
  view.setUint32(0, request, true);
  view.setUint32(4, HeaderFlags.VERSION | flags, true);
  view.setUint32(8, payload.length, true);
  bytes.set(payload, HEADER_SIZE);
  return bytes;
}

/** Payload of one 64-bit number. */
export function encodeU64(value: bigint | number): Uint8Array {
  return words64(value);
}

/** Payload of a vring state. */
export function encodeVringState(index: number, num: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(index, num).buffer);
}

/** Payload of SET_VRING_ADDR. `logAddress` is given where the used ring is to be logged. */
export function encodeVringAddresses(
  index: number,
  descriptor: number,
  used: number,
  available: number,
  logAddress?: number,
): Uint8Array {
  const bytes = new Uint8Array(40);
  bytes.set(encodeVringState(index, logAddress === undefined ? 0 : 1));
  bytes.set(words64(descriptor, used, available, logAddress ?? 0), 8);
  return bytes;
}

/** Payload of SET_MEM_TABLE. */
export function encodeMemoryTable(regions: readonly Region[]): Uint8Array {
  const bytes = new Uint8Array(8 + 32 * regions.length);
  viewOf(bytes).setUint32(0, regions.length, true);
  for (const [i, region] of regions.entries()) bytes.set(regionWords(region), 8 + 32 * i);
  return bytes;
}

/** Payload of SET_LOG_BASE. */
export function encodeLog(size: number, offset: number): Uint8Array {
  return words64(size, offset);
}

/** Payload of GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export function encodeInflight({ size, offset, queues, queueSize }: Inflight): Uint8Array {
  const bytes = new Uint8Array(INFLIGHT[1]);
  bytes.set(words64(size, offset));
  bytes.set(new Uint8Array(Uint16Array.of(queues, queueSize).buffer), 16);
  return bytes;
}

/** Payload of GET_CONFIG and SET_CONFIG. */
export function encodeConfig(offset: number, flags: number, content: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(12 + content.length);
  bytes.set(new Uint8Array(Uint32Array.of(offset, content.length, flags).buffer));
  bytes.set(content, 12);
  return bytes;
}

function regionWords(region: Region): Uint8Array {
  return words64(region.guestAddress, region.size, region.userAddress, region.mmapOffset);
}

function words64(...values: readonly (bigint | number)[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(values, BigInt).buffer);
}

/** A 64-bit address, offset or size. Nothing that this machine can map is at or beyond 2^53. */
function address(name: string, what: string, view: DataView, at: number): number {
  const value = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  check(Number.isSafeInteger(value), name, `${what} ${hex(value)} is not below 2^53`);
  return value;
}

function inRange(value: number, [least, most]: readonly [number, number], name: string, what: string): void {
  const rule = least === most ? `${least}` : `${least} to ${most}`;
  check(value >= least && value <= most, name, `${value} ${what}, not ${rule}`);
}

function check(holds: boolean, name: string, rule: string): void {
  if (!holds) throw new ProtocolError(`${name}: ${rule}`);
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
