import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DirtyLog } from '../../../core/memory/index.js';
import { Mapping, memfd } from '../../../core/system/index.js';
import { RingFeature } from '../../../core/virtqueue/index.js';
import { DATA, GUEST, Rig } from './rig.js';

const LOG_BYTES = (GUEST + 4 * 2 ** 20) / 4096 / 8;

test('while the front-end logs, written pages and the used ring are marked, switched on and off in mid-run', () => {
  const rig = new Rig();
  using fd = memfd('log', LOG_BYTES);
  const mapping = Mapping.map(fd.value, LOG_BYTES, 0);
  const bits = mapping.windowAt(mapping.address).u8;
  const marked = () => {
    const pages: number[] = [];
    for (let page = 0; page < LOG_BYTES * 8; page++) {
      if ((bits[page >> 3]! & (1 << (page & 7))) !== 0) pages.push(page - GUEST / 4096);
    }
    bits.fill(0);
    return pages;
  };
  let written = 0;
  rig.start((message) => message.complete(written));
  const request = (bytes: number) => {
    written = bytes;
    rig.driver.begin();
    rig.driver.readable(GUEST + DATA, 4096);
    rig.driver.writable(GUEST + DATA + 0x10000, 16);
    rig.driver.writable(GUEST + DATA + 0x20000, 8192);
    rig.driver.submit();
    rig.driver.publish();
    rig.queue.kick();
    assert.ok(rig.driver.poll() >= 0);
  };
  const data = DATA / 4096;
  const { features } = rig.queue;
  request(5000);
  assert.deepEqual(marked(), []);
  rig.queue.dirtyLog = new DirtyLog(mapping);
  request(5000);
  assert.deepEqual(marked(), []);
  rig.queue.features = features | RingFeature.LOG_ALL;
  request(5000);
  assert.deepEqual(marked(), [data + 16, data + 32, data + 33]);
  request(16);
  assert.deepEqual(marked(), [data + 16]);
  request(0);
  assert.deepEqual(marked(), []);
  rig.setAddresses(GUEST + 0x5000);
  request(0);
  assert.deepEqual(marked(), [5]);
  rig.setAddresses();
  request(0);
  assert.deepEqual(marked(), []);
  rig.queue.features = features;
  request(5000);
  assert.deepEqual(marked(), []);
  rig.close();
  mapping.unmap();
});
