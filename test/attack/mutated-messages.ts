import { spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  eventfd,
  type Fd,
  memfd,
  Seal,
  signal,
  SystemError,
  UnixConnection,
} from '../../core/system/index.js';
import { encodeMessage, encodeU64, Request } from '../../core/vhost-user/messages.js';
import {
  type Descriptors,
  everyProtocolFeature,
  makeMessage,
  MEMORY_BYTES,
} from '../support/hostile-messages.js';
import { Random } from '../support/random.js';
import { startOf } from './attacker.js';

/* A front-end that sends mutated messages with descriptors of every kind. */

/** Messages before the daemon is asked whether it has seen them. */
const BURST = 20;
/** Connections at a time: the daemon takes its time for each message, and serves others then. */
const LANES = 12;
const EAGAIN = 11;

const { socket, seed, end, enough, finish } = startOf();
const random = new Random(seed);
const folder = mkdtempSync(join(tmpdir(), 'vfk-messages-'));
const fifo = join(folder, 'fifo');
const file = join(folder, 'file');
spawnSync('mkfifo', [fifo]);
writeFileSync(file, new Uint8Array(4 * MEMORY_BYTES));
const opened = (path: string, flags: string): Fd => openSync(path, flags) as Fd;
const seals = Seal.GROW | Seal.SHRINK | Seal.SEAL;
const memory = [
  memfd('one', 4 * MEMORY_BYTES, seals),
  memfd('two', 4 * MEMORY_BYTES, 0),
  memfd('short', MEMORY_BYTES, seals),
];
const events = Array.from({ length: 4 }, () => eventfd());
const [one, other] = UnixConnection.pair();
const descriptors: Descriptors = {
  memory,
  events,
  others: [
    one.fd,
    other.fd,
    memory[0]!.value,
    events[0]!.value,
    opened('/dev/null', 'r+'),
    opened('/dev/zero', 'r+'),
    opened('/', 'r'),
    opened(fifo, 'r+'),
    opened(file, 'r+'),
    opened('/proc/self/mem', 'r'),
    opened('/proc/self/status', 'r'),
  ],
};

let messages = 0;
let connections = 0;

function isOver(): boolean {
  return messages >= enough || Date.now() >= end;
}

/** @returns whether the daemon still listens. */
function send(connection: UnixConnection, bytes: Uint8Array, fds: readonly Fd[]): boolean {
  const sent = connection.send(bytes, fds);
  return sent >= 0 || sent === -EAGAIN;
}

/** Waits until the daemon has answered what was sent. @returns whether it still listens. */
async function settle(connection: UnixConnection, sink: Uint8Array): Promise<boolean> {
  if (!send(connection, encodeMessage(Request.GET_QUEUE_NUM, 0, new Uint8Array(0)), [])) return false;
  for (let tries = 0; tries < 300; tries++) {
    await sleep(tries < 20 ? 1 : 5);
    const count = connection.recv(sink, []);
    if (count === -EAGAIN) continue;
    if (count <= 0) return false;
    const last = sink.subarray(0, count).subarray(-20);
    if (last[0] === Request.GET_QUEUE_NUM && last[8] === 8) return true;
  }
  return true;
}

async function connection(): Promise<void> {
  const connected = UnixConnection.connect(socket);
  connections += 1;
  try {
    const sink = new Uint8Array(65536);
    const features = encodeMessage(Request.SET_PROTOCOL_FEATURES, 0, encodeU64(everyProtocolFeature));
    let isAlive = send(connected, features, []);
    while (isAlive && !isOver()) {
      for (let i = 0; isAlive && i < BURST; i++) {
        const { bytes, fds } = makeMessage(random, descriptors);
        isAlive = send(connected, bytes, fds);
        messages += 1;
      }
      for (const { value } of events) if (random.once(3)) signal(value);
      if (isAlive) isAlive = await settle(connected, sink);
    }
  } finally {
    connected.close();
  }
}

/** Makes one connection after the other. */
async function lane(): Promise<void> {
  while (!isOver()) {
    try {
      await connection();
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      await sleep(20);
    }
  }
}

await Promise.all(Array.from({ length: LANES }, lane));
rmSync(folder, { recursive: true });
finish({ messages, connections });
