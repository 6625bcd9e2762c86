import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { FuseDevice } from '../../../core/mount/fuse-device.js';
import { type Fd, OwnedFd, UnixConnection } from '../../../core/system/index.js';
import { dup } from '../../../core/system/calls/files.js';

test(
  'notifications of a device that was stopped are sent when it goes on',
  { timeout: 20_000 },
  async (t) => {
    const [kernel, device] = UnixConnection.pair();
    const log = { debug() {}, info() {}, warn() {}, error() {} };
    const fuse = new FuseDevice(new OwnedFd(dup(device.fd) as Fd), { dispatch() {}, ended() {} }, log);
    t.after(() => {
      fuse.close();
      kernel.close();
      device.close();
    });
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
