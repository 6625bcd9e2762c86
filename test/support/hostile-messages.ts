import type { Fd, OwnedFd } from '../../core/system/index.js';
import {
  encodeConfig,
  encodeLog,
  encodeMemoryTable,
  encodeMessage,
  encodeU64,
  encodeVringAddresses,
  encodeVringState,
  Feature,
  HeaderFlags,
  ProtocolFeature,
  Request,
  type Region,
} from '../../core/vhost-user/messages.js';
import type { Random } from './random.js';
import { encodeSingleRegion } from './payloads.js';

/* vhost-user messages as a hostile front-end sends them, with good descriptors and bad ones. */

/** Bytes of a region that is well formed; a memory descriptor has four of them. */
export const MEMORY_BYTES = 2 ** 20;

/** Descriptors that a front-end may send, good ones and bad ones. */
export interface Descriptors {
  readonly memory: readonly OwnedFd[];
  readonly events: readonly OwnedFd[];
  readonly others: readonly Fd[];
}

export interface Wire {
  readonly bytes: Uint8Array;
  readonly fds: readonly Fd[];
}

const USER = 0x7f00_0000_0000;
const addresses = [
  0,
  1,
  4095,
  4096,
  MEMORY_BYTES,
  2 * MEMORY_BYTES,
  USER,
  USER + 4096,
  2 ** 47,
  2 ** 53 - 4096,
];

function region(random: Random): Region {
  const slot = random.below(4);
  const usual = {
    guestAddress: slot * MEMORY_BYTES,
    size: MEMORY_BYTES,
    userAddress: USER + slot * MEMORY_BYTES,
    mmapOffset: 0,
  };
  if (!random.once(4)) return usual;
  return {
    guestAddress: random.once(2) ? usual.guestAddress : random.pick(addresses),
    size: random.once(2) ? usual.size : random.pick(addresses),
    userAddress: random.once(2) ? usual.userAddress : random.pick(addresses),
    mmapOffset: random.once(2) ? 0 : random.pick(addresses),
  };
}

function index(random: Random): number {
  return random.once(20) ? random.below(300) : random.below(3);
}

/** A payload that fits its message more often than not, and the descriptors with it. */
function payload(random: Random, request: number, fds: Descriptors): { payload: Uint8Array; fds: Fd[] } {
  const memory = () => random.pick(fds.memory).value;
  const event = () => (random.once(10) ? random.pick(fds.others) : random.pick(fds.events).value);
  switch (request) {
    case Request.SET_FEATURES:
      return {
        payload: encodeU64(random.pick([everything, everything, Feature.VERSION_1, 0n, 1n << 63n])),
        fds: [],
      };
    case Request.SET_PROTOCOL_FEATURES:
      return {
        payload: encodeU64(random.once(5) ? BigInt(random.below(2 ** 31)) : everyProtocolFeature),
        fds: [],
      };
    case Request.SET_STATUS:
      return { payload: encodeU64(random.pick([0, 1, 3, 11, 15, 255, 256])), fds: [] };
    case Request.SET_MEM_TABLE: {
      const regions = Array.from({ length: random.below(9) }, () => region(random));
      return { payload: encodeMemoryTable(regions), fds: regions.map(memory) };
    }
    case Request.ADD_MEM_REG:
      return { payload: encodeSingleRegion(region(random)), fds: [memory()] };
    case Request.REM_MEM_REG:
      return { payload: encodeSingleRegion(region(random)), fds: random.once(2) ? [] : [memory()] };
    case Request.SET_LOG_BASE:
      return {
        payload: encodeLog(random.pick([64, 4096, MEMORY_BYTES]), random.pick([0, 1, 4096])),
        fds: [memory()],
      };
    case Request.SET_VRING_NUM:
      return {
        payload: encodeVringState(index(random), random.pick([1, 16, 128, 1024, 0, 3, 65536])),
        fds: [],
      };
    case Request.SET_VRING_BASE:
      return {
        payload: encodeVringState(index(random), random.below(random.once(9) ? 2 ** 31 : 65536)),
        fds: [],
      };
    case Request.SET_VRING_ENABLE:
    case Request.GET_VRING_BASE:
      return { payload: encodeVringState(index(random), random.below(random.once(9) ? 100 : 2)), fds: [] };
    case Request.SET_VRING_ADDR: {
      const part = () => USER + (random.once(9) ? random.pick(addresses) : 65536 * random.below(64));
      const log = random.once(2) ? random.pick(addresses) : undefined;
      return { payload: encodeVringAddresses(index(random), part(), part(), part(), log), fds: [] };
    }
    case Request.SET_VRING_KICK:
    case Request.SET_VRING_CALL:
    case Request.SET_VRING_ERR: {
      const polling = random.once(5);
      return { payload: encodeU64(index(random) | (polling ? 0x100 : 0)), fds: polling ? [] : [event()] };
    }
    case Request.SET_LOG_FD:
    case Request.SET_BACKEND_REQ_FD:
      return { payload: new Uint8Array(0), fds: [event()] };
    case Request.GET_CONFIG:
    case Request.SET_CONFIG:
      return {
        payload: encodeConfig(random.below(45), random.below(3), new Uint8Array(random.below(45))),
        fds: [],
      };
    default:
      return { payload: new Uint8Array(0), fds: [] };
  }
}

const everything = Object.values(Feature).reduce((all, bit) => all | bit);
export const everyProtocolFeature =
  Object.values(ProtocolFeature).reduce((all, bit) => all | bit) & ~ProtocolFeature.INFLIGHT_SHMFD;

/** One message: mostly well formed, else mutated, else noise. */
export function makeMessage(random: Random, descriptors: Descriptors): Wire {
  const request = random.once(100) ? random.below(2 ** 31) : 1 + random.below(45);
  const made = payload(random, request, descriptors);
  // Without an acknowledgement a refusal ends the connection, which is only sometimes of interest.
  const bytes = encodeMessage(request, random.once(50) ? 0 : HeaderFlags.NEED_REPLY, made.payload);
  let { fds } = made;
  if (random.once(30)) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
  if (random.once(40)) fds = Array.from({ length: random.below(12) }, () => random.pick(descriptors.others));
  if (random.once(200)) return { bytes: random.bytes(1 + random.below(100)), fds };
  return { bytes: random.once(200) ? bytes.subarray(0, 1 + random.below(bytes.length)) : bytes, fds };
}
