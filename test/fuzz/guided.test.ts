import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Message } from '../../core/memory/index.js';
import { decodeHeader, decodeMessage, HEADER_SIZE, Request } from '../../core/vhost-user/messages.js';
import { ProtocolError } from '../../core/vhost-user/index.js';
import { DATA, echo, GUEST, Rig } from '../core/virtqueue/rig.js';
import { engine } from '../support/engine.js';
import { FuseClient, Op, ROOT } from '../support/fuse-client.js';
import { checkReply, Guesses, makeRequest } from '../support/hostile-requests.js';
import { type Loopback, QueueFailed } from '../support/loopback.js';
import { Random, withSeed } from '../support/random.js';
import { TinyBackend } from '../support/tiny-backend.js';
import { corpusOf, type Guided, guided } from './guided.js';

/*
 * Inputs led by the answers that they get, for what reads a guest's and a monitor's bytes. The
 * corpora are kept in `corpora/`; with VIRTIOFS_KIT_CORPUS=write what is found is added to them.
 */

/**
 * Inputs for each; VIRTIOFS_KIT_FUZZ sets another number. A ring or a session takes milliseconds.
 */
const GIVEN = process.env['VIRTIOFS_KIT_FUZZ'];
const INPUTS = { messages: 20_000, ring: 1000, fuse: 1000 } as const;
const KEEPS = process.env['VIRTIOFS_KIT_CORPUS'] === 'write';

/** A text without its numbers. */
function kindOf(text: string): string {
  return text.replace(/(0x)?[0-9a-f]*[0-9][0-9a-f]*/g, '#');
}

const everyFeature = (1n << 63n) - 1n;

/** A message: a byte for the number of descriptors, one for what is negotiated, then its bytes. */
const messages: Guided = {
  name: 'messages',
  seeds: Object.values(Request).map((request) => {
    const bytes = new Uint8Array(2 + HEADER_SIZE + 8);
    bytes[0] = 1;
    bytes[1] = 1;
    new DataView(bytes.buffer).setUint32(2, request, true);
    bytes[6] = 1;
    bytes[10] = 8;
    return bytes;
  }),
  run(input) {
    if (input.length < 2 + HEADER_SIZE) return [];
    try {
      const header = decodeHeader(input.subarray(2, 2 + HEADER_SIZE));
      const payload = input.slice(2 + HEADER_SIZE, 2 + HEADER_SIZE + header.size);
      const decoded = decodeMessage(header, payload, input[0]!, input[1]! % 2 === 1 ? everyFeature : 0n);
      assert.equal(Request[decoded.type], header.request);
      return [decoded.type];
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      return [kindOf(error.message)];
    }
  },
};

const RING_SIZE = 16;
const RING_MEMORY_BYTES = 2 * 2 ** 20;
const RING_TABLES = 0x8_0000;

/** A guest's memory: descriptors, then what is available, then an indirect table. */
const ring: Guided = {
  name: 'ring',
  seeds: [0, 1, 4].map((flags) => {
    const bytes = new Uint8Array(RING_SIZE * 16 + 40 + 64);
    const view = new DataView(bytes.buffer);
    const entry = (at: number, address: number, length: number, own: number, next: number): void => {
      view.setBigUint64(at, BigInt(address), true);
      view.setUint32(at + 8, length, true);
      view.setUint16(at + 12, own, true);
      view.setUint16(at + 14, next, true);
    };
    entry(0, flags === 4 ? GUEST + RING_TABLES : GUEST + DATA, flags === 4 ? 32 : 16, flags, 1);
    entry(16, GUEST + DATA + 64, 64, 2, 0);
    view.setUint16(RING_SIZE * 16 + 2, 1, true);
    entry(RING_SIZE * 16 + 40, GUEST + DATA, 16, 1, 1);
    entry(RING_SIZE * 16 + 56, GUEST + DATA + 64, 64, 2, 0);
    return bytes;
  }),
  async run(input) {
    const rig = new Rig({ size: RING_SIZE, eventIdx: input.length % 2 === 0, memory: RING_MEMORY_BYTES });
    rig.bytes.set(input.subarray(0, RING_SIZE * 16), 0);
    const available = rig.driver.available - GUEST;
    rig.bytes.set(input.subarray(RING_SIZE * 16, RING_SIZE * 16 + 40), available);
    rig.bytes.set(input.subarray(RING_SIZE * 16 + 40), RING_TABLES);
    let served = 0;
    rig.start((message: Message) => {
      served += 1;
      echo(message);
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.ok(served <= RING_SIZE, `${served} requests of a ring of ${RING_SIZE}`);
    assert.equal(rig.queue.inFlight, 0);
    assert.equal(rig.warnings.length, rig.queue.broken ? 1 : 0);
    const answers = [`${served} served`, ...rig.warnings.map(kindOf)];
    rig.queue.stop();
    rig.close();
    return answers;
  },
};

/** Requests, each after two bytes with its length, for a session that has negotiated. */
function frames(requests: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(requests.flatMap((bytes) => [bytes.length & 255, bytes.length >>> 8, ...bytes]));
}

/** Sends a request. @returns the kind of its answer. */
async function answerTo(loopback: Loopback, bytes: Uint8Array, opcode: number): Promise<string> {
  try {
    const reply = await loopback.request(1, bytes, 4096);
    checkReply(reply, opcode, ROOT, new Guesses());
    const error = reply.length < 16 ? 'nothing' : new DataView(reply.buffer).getInt32(4, true);
    return `${opcode}: ${error}`;
  } catch (error) {
    if (!(error instanceof QueueFailed)) throw error;
    return 'the queue failed';
  }
}

const fuse: Guided = {
  name: 'fuse',
  seeds: Array.from({ length: 40 }, (_, seed) => {
    const random = new Random(seed + 1);
    const client = new FuseClient({ request: () => Promise.reject(new Error('nothing is sent')) });
    const guesses = new Guesses();
    return frames(Array.from({ length: 4 }, () => makeRequest(random, guesses, client).bytes));
  }),
  async run(input) {
    const tiny = new TinyBackend();
    const running = await engine(tiny, { limits: { nodes: 50, handles: 20, locks: { sessionWaiters: 5 } } });
    const { client, loopback, session } = running.guest({ drainTimeoutMs: 1000 });
    await client.init();
    const pending: Promise<string>[] = [];
    for (let at = 0; at + 2 < input.length;) {
      const end = Math.min(input.length, at + 2 + (input[at]! | (input[at + 1]! << 8)));
      const bytes = input.slice(at + 2, end);
      at = end;
      // A length that is not that of the message has been tried enough.
      if (bytes.length >= 4 && bytes[0] !== 255) new DataView(bytes.buffer).setUint32(0, bytes.length, true);
      const opcode = bytes.length >= 8 ? new DataView(bytes.buffer).getUint32(4, true) : Op.GETATTR;
      pending.push(answerTo(loopback, bytes, opcode));
    }
    loopback.submit();
    await session.drain();
    const answers = await Promise.all(pending);
    assert.equal(loopback.pending, 0);
    assert.deepEqual(running.log.errors, []);
    await session.close();
    assert.equal(running.export.nodes.size, 1);
    assert.equal(tiny.openFiles.size, 0);
    // Unknown opcodes are all the same.
    return answers.map((answer) => answer.replace(/^[0-9]{3,}/, '#'));
  },
};

for (const target of [messages, ring, fuse]) {
  const inputs = Number(GIVEN ?? INPUTS[target.name as keyof typeof INPUTS]);
  test(`${target.name}: inputs led by their answers do no harm: ${inputs} of them`, (t) =>
    withSeed(t, Date.now() % 1_000_000_007, async (seed) => {
      assert.ok(KEEPS || corpusOf(target.name).length > 0, 'the corpus is there');
      const { answers, kept } = await guided(target, new Random(seed), inputs, KEEPS);
      t.diagnostic(`${answers} kinds of answers, ${kept} inputs kept`);
    }));
}
