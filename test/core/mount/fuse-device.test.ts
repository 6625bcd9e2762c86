import assert from 'node:assert/strict';
import { fstatSync } from 'node:fs';
import { test, type TestContext } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import type { Message } from '../../../core/memory/index.js';
import { BUFFER_BYTES, type DeviceReceiver, FuseDevice } from '../../../core/mount/fuse-device.js';
import { RequestSlots } from '../../../core/mount/request-slots.js';
import { type Fd, OwnedFd, UnixConnection } from '../../../core/system/index.js';
import { dup } from '../../../core/system/calls/files.js';

/** A device that the test is the kernel of. */
function deviceOf(t: TestContext, receiver: DeviceReceiver, slots?: RequestSlots) {
  const [kernel, device] = UnixConnection.pair();
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const fuse = new FuseDevice(new OwnedFd(dup(device.fd) as Fd), receiver, log, slots);
  t.after(() => {
    fuse.close();
    kernel.close();
    device.close();
  });
  return { kernel, fuse };
}

test(
  'notifications of a device that was stopped are sent when it goes on',
  { timeout: 20_000 },
  async (t) => {
    const { kernel, fuse } = deviceOf(t, { dispatch() {}, ended() {} });
    fuse.stop();
    fuse.notify(Buffer.from('first'));
    fuse.notify(Buffer.from('second'));
    fuse.goOn();
    let received = '';
    const bytes = new Uint8Array(64);
    while (received.length < 'firstsecond'.length) {
      const count = kernel.recv(bytes, []);
      if (count > 0) received += Buffer.from(bytes.subarray(0, count)).toString();
      await nextTurn();
    }
    assert.equal(received, 'firstsecond');
  },
);

test(
  'a kept request takes a page while it waits, and idle slots are given back',
  { timeout: 60_000 },
  async (t) => {
    const memory = RequestSlots.make(BUFFER_BYTES);
    const seen = new OwnedFd(dup(memory.value) as Fd);
    const messages: Message[] = [];
    const bytes = (): number => fstatSync(seen.value).blocks * 512;
    const receiver = {
      dispatch(message: Message): void {
        messages.push(message);
        assert.ok(bytes() >= BUFFER_BYTES, 'a request that comes has all of its room');
      },
      ended() {},
    };
    const slots = new RequestSlots(memory, BUFFER_BYTES);
    const { kernel, fuse } = deviceOf(t, receiver, slots);
    t.after(() => seen.close());
    fuse.begin();
    const arrive = async (count: number): Promise<void> => {
      for (const end = messages.length + count; messages.length < end;) {
        const before = messages.length;
        kernel.send(Buffer.alloc(80, 80), []);
        while (messages.length === before) await nextTurn();
      }
    };
    await arrive(40);
    assert.equal(fuse.inFlight, 40);
    while (bytes() > 2 * BUFFER_BYTES) await sleep(20);
    for (const message of messages.splice(0)) message.complete(0);
    await arrive(30);
    for (const message of messages.splice(0)) message.complete(0);
    assert.equal(fuse.inFlight, 0);
    while (bytes() > 18 * BUFFER_BYTES) await sleep(20);
  },
);
