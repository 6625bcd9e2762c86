import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { UmlRelay } from '../../../core/guest/relay.js';
import { EAGAIN } from '../../../core/system/calls/negative-errno.js';
import {
  drain,
  eventfd,
  signal,
  type OwnedFd,
  UnixConnection,
  UnixListener,
} from '../../../core/system/index.js';
import { temporaryFolder } from '../../support/vhost-user.js';

/** A message: request, flags, payload. */
function message(request: number, flags: number, payload: Buffer): Buffer {
  const header = Buffer.alloc(12);
  header.writeUInt32LE(request, 0);
  header.writeUInt32LE(flags, 4);
  header.writeUInt32LE(payload.length, 8);
  return Buffer.concat([header, payload]);
}

/** What the connection has received once `bytes` have come. */
async function received(connection: UnixConnection, bytes: number, fds: OwnedFd[] = []): Promise<Buffer> {
  const buffer = Buffer.alloc(4096);
  let all = Buffer.alloc(0);
  while (all.length < bytes) {
    const count = connection.recv(buffer, fds);
    if (count > 0) all = Buffer.concat([all, buffer.subarray(0, count)]);
    else if (count === EAGAIN) await sleep(1);
    else return all;
  }
  return all;
}

async function connected(t: TestContext): Promise<{ guest: UnixConnection; daemon: UnixConnection }> {
  const folder = temporaryFolder(t);
  const listener = UnixListener.listen(join(folder, 'daemon'));
  const relay = new UmlRelay(join(folder, 'relay'), join(folder, 'daemon'), 'share');
  const guest = UnixConnection.connect(join(folder, 'relay'));
  let daemon = listener.accept();
  for (; typeof daemon === 'number'; daemon = listener.accept()) await sleep(1);
  const end = daemon;
  t.after(() => {
    relay[Symbol.dispose]();
    for (const one of [guest, end, listener]) one.close();
  });
  return { guest, daemon };
}

describe('the relay for User-Mode Linux', () => {
  it('passes messages on both ways, with their descriptors', async (t) => {
    const { guest, daemon } = await connected(t);
    const kick = eventfd();
    const sent = message(12, 1, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]));
    // Two at once, and the second in two parts: it comes out as it was sent.
    guest.send(Buffer.concat([sent, sent.subarray(0, 15)]), [kick.value]);
    guest.send(sent.subarray(15));
    const fds: OwnedFd[] = [];
    assert.deepEqual(await received(daemon, 40, fds), Buffer.concat([sent, sent]));
    assert.equal(fds.length, 1);
    assert.equal(drain(kick.value), EAGAIN);
    signal(fds[0]!.value);
    assert.notEqual(drain(kick.value), EAGAIN);
    fds[0]!.close();
    kick.close();
    const reply = message(1, 5, Buffer.alloc(8, 7));
    daemon.send(reply);
    assert.deepEqual(await received(guest, reply.length), reply);
  });

  it('answers for the configuration, of which the daemon hears nothing', async (t) => {
    const { guest, daemon } = await connected(t);
    daemon.send(message(15, 5, Buffer.from([0x09, 0, 0, 0, 0, 0, 0, 0])));
    const features = await received(guest, 20);
    assert.equal(features.readUInt32LE(12), 0x209);
    guest.send(message(16, 1, Buffer.from([0x09, 0x02, 0, 0, 0, 0, 0, 0])));
    assert.equal((await received(daemon, 20)).readUInt32LE(12), 0x009);
    // Offset 0, 40 bytes, and room for them.
    const asked = Buffer.alloc(12 + 40);
    asked.writeUInt32LE(40, 4);
    guest.send(message(24, 1, asked));
    const config = await received(guest, 12 + 52);
    assert.equal(config.readUInt32LE(4), 5);
    assert.equal(config.toString('latin1', 24, 60).replace(/\0+$/, ''), 'share');
    assert.equal(config.readUInt32LE(60), 1);
  });

  it('cuts a memory table to its regions', async (t) => {
    const { guest, daemon } = await connected(t);
    const table = Buffer.alloc(72);
    table.writeUInt32LE(1, 0);
    table.fill(5, 8, 40);
    guest.send(message(5, 1, table));
    assert.deepEqual(await received(daemon, 52), message(5, 1, table.subarray(0, 40)));
  });

  it('ends with either side', async (t) => {
    const one = await connected(t);
    one.daemon.close();
    assert.equal((await received(one.guest, 1)).length, 0);
    const other = await connected(t);
    // More than any message has.
    const header = Buffer.alloc(12);
    header.writeUInt32LE(1 << 20, 8);
    other.guest.send(header);
    assert.equal((await received(other.daemon, 1)).length, 0);
  });
});
