import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import {
  decodeHeader,
  decodeMessage,
  encodeConfig,
  encodeConfigSpace,
  encodeLog,
  encodeMemoryTable,
  encodeMessage,
  encodeU64,
  encodeVringAddresses,
  encodeVringState,
  hasReply,
  HEADER_SIZE,
  HeaderFlags,
  MAX_PAYLOAD_BYTES,
  ProtocolError,
  ProtocolFeature,
  Request,
  type FrontEndMessage,
  type RequestName,
} from '../../../core/vhost-user/messages.js';
import { checkProperty } from '../../support/random.js';
import { encodeSingleRegion, encodeStateTransfer } from '../../support/payloads.js';

const everyFeature = Object.values(ProtocolFeature).reduce((all, bit) => all | bit, 0n);

function decode(name: RequestName, payload: Uint8Array, fds = 0, negotiated = everyFeature): FrontEndMessage {
  const bytes = encodeMessage(Request[name], 0, payload);
  return decodeMessage(decodeHeader(bytes), bytes.subarray(HEADER_SIZE), fds, negotiated);
}

function refuses(rule: RegExp, ...args: Parameters<typeof decode>): void {
  assert.throws(
    () => decode(...args),
    (error) => error instanceof ProtocolError && rule.test(error.message),
  );
}

const region = { guestAddress: 0x10_0000, size: 0x4000, userAddress: 0x7f00_0000_0000, mmapOffset: 0x1000 };
const none = new Uint8Array(0);

/** Decodes a header of GET_FEATURES with these flags. */
function header(flags: number, size = 0): () => { readonly size: number } {
  const bytes = new Uint8Array(Uint32Array.of(Request.GET_FEATURES, flags, size).buffer);
  return () => decodeHeader(bytes);
}

test('a header has request, flags and size, little-endian', () => {
  const bytes = encodeMessage(Request.SET_FEATURES, HeaderFlags.NEED_REPLY, encodeU64(5));
  assert.deepEqual([...bytes], [2, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(decodeHeader(bytes), { request: 2, needReply: true, size: 8 });
});

test('a header of another version, with reply or unknown flags, or for a huge payload is refused', () => {
  assert.throws(header(0), /GET_FEATURES: version 0 is not 1/);
  assert.throws(header(2), /version 2 is not 1/);
  assert.throws(header(1 | HeaderFlags.REPLY), /reply flag/);
  assert.throws(header(0x11), /unknown flags 0x11/);
  assert.throws(header(1, MAX_PAYLOAD_BYTES + 1), /payload of 4097 bytes is more than 4096/);
  assert.throws(header(1, 0xffff_ffff), /payload of 4294967295 bytes/);
  assert.equal(header(1, MAX_PAYLOAD_BYTES)().size, MAX_PAYLOAD_BYTES);
});

test('every message that is encoded decodes to what it was made of', () => {
  assert.deepEqual(decode('SET_FEATURES', encodeU64(1n << 63n)), { type: 'SET_FEATURES', value: 1n << 63n });
  assert.deepEqual(decode('SET_VRING_NUM', encodeVringState(1, 256)), {
    type: 'SET_VRING_NUM',
    index: 1,
    num: 256,
  });
  assert.deepEqual(decode('SET_VRING_KICK', encodeU64(2), 1), {
    type: 'SET_VRING_KICK',
    index: 2,
    polling: false,
  });
  assert.deepEqual(decode('SET_VRING_CALL', encodeU64(0x102)), {
    type: 'SET_VRING_CALL',
    index: 2,
    polling: true,
  });
  assert.deepEqual(decode('SET_VRING_ADDR', encodeVringAddresses(1, 0x1000, 0x2004, 0x3002, 0x9000)), {
    type: 'SET_VRING_ADDR',
    index: 1,
    log: true,
    descriptor: 0x1000,
    used: 0x2004,
    available: 0x3002,
    logAddress: 0x9000,
  });
  assert.deepEqual(decode('SET_MEM_TABLE', encodeMemoryTable([region]), 1), {
    type: 'SET_MEM_TABLE',
    regions: [region],
  });
  assert.deepEqual(decode('ADD_MEM_REG', encodeSingleRegion(region), 1), { type: 'ADD_MEM_REG', region });
  assert.deepEqual(decode('SET_LOG_BASE', encodeLog(4096, 64), 1), {
    type: 'SET_LOG_BASE',
    size: 4096,
    offset: 64,
  });
  assert.deepEqual(decode('GET_CONFIG', encodeConfig(36, 0, new Uint8Array(4))), {
    type: 'GET_CONFIG',
    offset: 36,
    size: 4,
    flags: 0,
  });
  assert.deepEqual(decode('SET_CONFIG', encodeConfig(0, 1, Uint8Array.of(7))), {
    type: 'SET_CONFIG',
    offset: 0,
    bytes: Uint8Array.of(7),
    flags: 1,
  });
});

test('a memory table may come in a payload larger than its regions, as User-Mode Linux sends it', () => {
  const payload = new Uint8Array(72);
  payload.set(encodeMemoryTable([region]));
  assert.deepEqual(decode('SET_MEM_TABLE', payload, 1), { type: 'SET_MEM_TABLE', regions: [region] });
});

test('a memory table that is cut off, too long, overlapping or without its descriptors is refused', () => {
  const other = { ...region, guestAddress: region.guestAddress + region.size, userAddress: 0 };
  assert.equal(decode('SET_MEM_TABLE', encodeMemoryTable([region, other]), 2).type, 'SET_MEM_TABLE');
  refuses(/1 file descriptors for 2 regions/, 'SET_MEM_TABLE', encodeMemoryTable([region, other]), 1);
  refuses(/hold no 2 regions/, 'SET_MEM_TABLE', encodeMemoryTable([region, other]).subarray(0, 71), 2);
  refuses(/9 regions are more than 8/, 'SET_MEM_TABLE', new Uint8Array([9, ...new Uint8Array(7)]), 8);
  refuses(
    /overlap at guest address/,
    'SET_MEM_TABLE',
    encodeMemoryTable([region, { ...region, userAddress: 0 }]),
    2,
  );
  refuses(
    /overlap at user address/,
    'SET_MEM_TABLE',
    encodeMemoryTable([region, { ...region, guestAddress: 0 }]),
    2,
  );
});

test('a region that is empty, wraps around or lies beyond 2^53 is refused', () => {
  refuses(/empty/, 'ADD_MEM_REG', encodeSingleRegion({ ...region, size: 0 }), 1);
  refuses(/wraps around/, 'ADD_MEM_REG', encodeSingleRegion({ ...region, guestAddress: 2 ** 53 - 4096 }), 1);
  const beyond = encodeSingleRegion(region);
  beyond[15] = 0xff;
  refuses(/guest address 0xff\w+ is not below 2\^53/, 'ADD_MEM_REG', beyond, 1);
});

test('payload sizes and descriptor counts are those of the message', () => {
  refuses(/GET_FEATURES: 8 payload bytes, not 0/, 'GET_FEATURES', encodeU64(0));
  refuses(/SET_FEATURES: 7 payload bytes, not 8/, 'SET_FEATURES', new Uint8Array(7));
  refuses(/SET_OWNER: 1 file descriptors, not 0/, 'SET_OWNER', none, 1);
  refuses(/ADD_MEM_REG: 0 file descriptors, not 1/, 'ADD_MEM_REG', encodeSingleRegion(region), 0);
  refuses(/SET_VRING_KICK: 2 file descriptors, not 0 to 1/, 'SET_VRING_KICK', encodeU64(0), 2);
  assert.equal(decode('REM_MEM_REG', encodeSingleRegion(region), 1).type, 'REM_MEM_REG');
});

test('ring sizes, bases, states and addresses keep the rules of virtio', () => {
  for (const size of [0, 3, 65536, 0xffff_ffff]) {
    refuses(/not a power of 2/, 'SET_VRING_NUM', encodeVringState(0, size));
  }
  refuses(/more than 65535/, 'SET_VRING_BASE', encodeVringState(0, 65536));
  refuses(/neither 0 nor 1/, 'SET_VRING_ENABLE', encodeVringState(0, 2));
  refuses(/aligned to 16/, 'SET_VRING_ADDR', encodeVringAddresses(0, 8, 0, 0));
  refuses(/aligned to 4/, 'SET_VRING_ADDR', encodeVringAddresses(0, 0, 2, 0));
  refuses(/aligned to 2/, 'SET_VRING_ADDR', encodeVringAddresses(0, 0, 0, 1));
});

test('a vring descriptor comes unless the invalid FD flag says that none does', () => {
  refuses(/no descriptor/, 'SET_VRING_KICK', encodeU64(0), 0);
  refuses(/a descriptor comes with the invalid FD flag/, 'SET_VRING_KICK', encodeU64(0x100), 1);
  refuses(/reserved bits/, 'SET_VRING_ERR', encodeU64(0x200), 1);
});

test('messages of a protocol feature need its negotiation', () => {
  refuses(/CONFIG has not been negotiated/, 'GET_CONFIG', encodeConfig(0, 0, new Uint8Array(1)), 0, 0n);
  refuses(/CONFIGURE_MEM_SLOTS has not been negotiated/, 'GET_MAX_MEM_SLOTS', none, 0, 0n);
  refuses(/STATUS has not been negotiated/, 'GET_STATUS', none, 0, 0n);
  refuses(/LOG_SHMFD has not been negotiated/, 'SET_LOG_BASE', encodeLog(1, 0), 1, 0n);
  const save = encodeStateTransfer('save');
  refuses(/DEVICE_STATE has not been negotiated/, 'SET_DEVICE_STATE_FD', save, 1, 0n);
});

test("a device's state goes one of two ways, by one descriptor, while the device is stopped", () => {
  for (const direction of ['save', 'load'] as const)
    assert.deepEqual(decode('SET_DEVICE_STATE_FD', encodeStateTransfer(direction), 1), {
      type: 'SET_DEVICE_STATE_FD',
      direction,
    });
  const words = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);
  refuses(/direction 2 is neither/, 'SET_DEVICE_STATE_FD', words(2, 0), 1);
  refuses(/phase 1 is not 0/, 'SET_DEVICE_STATE_FD', words(0, 1), 1);
  refuses(/0 file descriptors/, 'SET_DEVICE_STATE_FD', words(0, 0), 0);
});

test('messages that are not served are refused by name', () => {
  refuses(/^SEND_RARP: not supported$/, 'SEND_RARP', encodeU64(0));
  refuses(/^IOTLB_MSG: not supported$/, 'IOTLB_MSG', none);
  assert.throws(
    () => decodeMessage({ request: 99, needReply: false, size: 0 }, none, 0, 0n),
    /^ProtocolError: request 99: not supported$/,
  );
});

test('the configuration space is tag and number of queues, and is read in any part of its 40 bytes', () => {
  const space = encodeConfigSpace('größe', 3);
  assert.equal(space.length, 40);
  assert.equal(Buffer.from(space.subarray(0, 8)).toString(), 'größe\0');
  assert.deepEqual([...space.subarray(36)], [3, 0, 0, 0]);
  assert.throws(() => encodeConfigSpace('', 1), RangeError);
  assert.throws(() => encodeConfigSpace('x'.repeat(37), 1), RangeError);
  assert.equal(encodeConfigSpace('x'.repeat(36), 1)[35], 'x'.charCodeAt(0));
  refuses(/bytes 36 to 41 of a space of 40/, 'GET_CONFIG', encodeConfig(36, 0, new Uint8Array(5)));
  refuses(/come for a size of/, 'GET_CONFIG', encodeConfig(0, 0, new Uint8Array(5)).subarray(0, 16));
});

test('only messages with a reply body have one', () => {
  const replied = Object.entries(Request)
    .filter(([, request]) => hasReply(request))
    .map(([name]) => name);
  assert.deepEqual(replied.sort(), [
    'CHECK_DEVICE_STATE',
    'GET_CONFIG',
    'GET_FEATURES',
    'GET_INFLIGHT_FD',
    'GET_MAX_MEM_SLOTS',
    'GET_PROTOCOL_FEATURES',
    'GET_QUEUE_NUM',
    'GET_STATUS',
    'GET_VRING_BASE',
    'SET_DEVICE_STATE_FD',
    'SET_LOG_BASE',
  ]);
});

test('any bytes decode to a message or a ProtocolError', async (t) => {
  await checkProperty(
    t,
    fc.property(
      fc.integer({ min: 0, max: 50 }),
      fc.uint8Array({ maxLength: 300 }),
      fc.integer({ min: 0, max: 9 }),
      (request, payload, fds) => {
        try {
          decodeMessage({ request, needReply: false, size: payload.length }, payload, fds, everyFeature);
        } catch (error) {
          assert.ok(error instanceof ProtocolError, String(error));
        }
      },
    ),
    { numRuns: 20_000 },
  );
});
