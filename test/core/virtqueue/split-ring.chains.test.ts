import assert from 'node:assert/strict';
import { test } from 'node:test';
import { drain } from '../../../core/system/index.js';
import { RingFeature } from '../../../core/virtqueue/index.js';
import { DATA, GUEST, Rig, until } from './rig.js';

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const TABLE = 0x8_0000;
const MEMORY_BYTES = 4 * 2 ** 20;

/** What the device reads of a chain: the lengths of its segments, or the rule that it breaks. */
async function take(write: (rig: Rig) => void, options: { size?: number; features?: bigint } = {}) {
  const rig = new Rig({ size: options.size ?? 16 });
  if (options.features !== undefined) rig.queue.features = options.features;
  const taken: { readable: number[]; writable: number[] }[] = [];
  rig.start((message) => {
    const lengths = (list: typeof message.readable) =>
      Array.from({ length: list.count }, (_, i) => list.segmentLength(i));
    taken.push({ readable: lengths(message.readable), writable: lengths(message.writable) });
    message.complete(0);
  });
  write(rig);
  await until(() => rig.queue.broken || rig.queue.base === rig.offered);
  const broken = rig.queue.broken;
  assert.equal(drain(rig.err.value) > 0, broken);
  assert.equal(rig.warnings.length, broken ? 1 : 0);
  const outcome = broken ? rig.warnings[0]!.replace('queue stopped: the guest sent ', '') : taken;
  rig.queue.stop();
  rig.close();
  return outcome;
}

test('a chain is its readable and then its writable segments', async () => {
  const outcome = await take((rig) => {
    rig.descriptor(5, GUEST + DATA, 40, NEXT, 2);
    rig.descriptor(2, GUEST + DATA + 100, 7, NEXT, 9);
    rig.descriptor(9, GUEST + DATA + 200, 16, NEXT | WRITE, 0);
    rig.descriptor(0, GUEST + DATA + 4096, 4096, WRITE);
    rig.offer(5);
  });
  assert.deepEqual(outcome, [{ readable: [40, 7], writable: [16, 4096] }]);
});

test('a chain may have segments of one kind only, and empty ones are left out', async () => {
  const outcome = await take((rig) => {
    rig.descriptor(0, GUEST + DATA, 40, NEXT, 1);
    rig.descriptor(1, 0, 0, 0);
    rig.descriptor(2, 0xffff_ffff_f000, 0, NEXT | WRITE, 3);
    rig.descriptor(3, GUEST + DATA, 8, WRITE);
    rig.descriptor(4, 0, 0, 0);
    rig.offer(0, 2, 4);
  });
  assert.deepEqual(outcome, [
    { readable: [40], writable: [] },
    { readable: [], writable: [8] },
    { readable: [], writable: [] },
  ]);
});

test('an indirect table stands for its descriptors, wherever it lies', async () => {
  for (const offset of [0, 4, 1, 4093]) {
    const outcome = await take((rig) => {
      rig.entry(0x10000, GUEST + DATA, 40, NEXT, 2);
      rig.entry(0x10002, GUEST + DATA, 16, NEXT | WRITE, 1);
      rig.entry(0x10001, GUEST + DATA, 4096, WRITE);
      rig.bytes.copyWithin(TABLE + offset, 0x10_0000, 0x10_0000 + 48);
      // The table's own WRITE flag means nothing (2.7.5.3.2).
      rig.descriptor(1, GUEST + TABLE + offset, 48, INDIRECT | WRITE);
      rig.offer(1);
    });
    assert.deepEqual(outcome, [{ readable: [40], writable: [16, 4096] }]);
  }
});

test('a table may end a chain of ordinary descriptors', async () => {
  const outcome = await take((rig) => {
    rig.descriptor(0, GUEST + DATA, 40, NEXT, 1);
    rig.descriptor(1, GUEST + TABLE, 16, INDIRECT);
    rig.entry(TABLE / 16, GUEST + DATA, 16, WRITE);
    rig.offer(0);
  });
  assert.deepEqual(outcome, [{ readable: [40], writable: [16] }]);
});

test('a chain as long as the queue is taken, also with 1024 segments', async () => {
  for (const size of [16, 1024]) {
    const outcome = await take(
      (rig) => {
        for (let i = 0; i < size; i++)
          rig.descriptor(i, GUEST + DATA + 2 * i, 1, i + 1 === size ? 0 : NEXT, i + 1);
        rig.offer(0);
      },
      { size },
    );
    assert.deepEqual(outcome, [{ readable: Array<number>(size).fill(1), writable: [] }]);
  }
  const indirect = await take((rig) => {
    for (let i = 0; i < 1024; i++)
      rig.entry(TABLE / 16 + i, GUEST + DATA + 2 * i, 1, WRITE | (i === 1023 ? 0 : NEXT), i + 1);
    rig.descriptor(0, GUEST + TABLE, 16 * 1024, INDIRECT);
    rig.offer(0);
  });
  assert.deepEqual(indirect, [{ readable: [], writable: Array<number>(1024).fill(1) }]);
});

/** What is said of memory that the front-end has not shared. */
function outside(what: string, length: number, address: number, missing: number): string {
  const hex = (number: number): string => `0x${number.toString(16)}`;
  const shared = `${hex(GUEST)} to ${hex(GUEST + MEMORY_BYTES)}`;
  return (
    `${what} outside memory: ${length} bytes at ${hex(address)}, ` +
    `${hex(missing)} is not shared with this process (shared: ${shared}); ` +
    'all memory of the guest, hot-plugged memory too, must be shared (QEMU: share=on)'
  );
}

const violations: Record<string, [string, (rig: Rig) => void]> = {
  'a loop of two descriptors': [
    'a chain longer than the queue',
    (rig) => {
      rig.descriptor(0, GUEST + DATA, 1, NEXT, 1);
      rig.descriptor(1, GUEST + DATA, 1, NEXT, 0);
      rig.offer(0);
    },
  ],
  'a descriptor that is its own next': [
    'a chain longer than the queue',
    (rig) => {
      rig.descriptor(0, 0, 0, NEXT, 0);
      rig.offer(0);
    },
  ],
  'a head beyond the table': ['a head beyond the descriptor table', (rig) => rig.offer(16)],
  'a next beyond the table': [
    'a next beyond the descriptor table',
    (rig) => {
      rig.descriptor(0, GUEST + DATA, 1, NEXT, 16);
      rig.offer(0);
    },
  ],
  'a readable segment after a writable one': [
    'a readable descriptor after a writable one',
    (rig) => {
      rig.descriptor(0, GUEST + DATA, 1, NEXT | WRITE, 1);
      rig.descriptor(1, GUEST + DATA, 1, 0);
      rig.offer(0);
    },
  ],
  'a segment below the memory': [outside('a segment', 2, GUEST - 1, GUEST - 1), one(GUEST - 1, 2)],
  'a segment beyond the memory': [
    outside('a segment', 2, GUEST + MEMORY_BYTES - 1, GUEST + MEMORY_BYTES),
    one(GUEST + MEMORY_BYTES - 1, 2),
  ],
  'a segment of 4 GiB': [
    outside('a segment', 0xffff_ffff, GUEST, GUEST + MEMORY_BYTES),
    one(GUEST, 0xffff_ffff),
  ],
  'an address of 2^64 - 1': [
    outside('a segment', 0xffff_ffff, 2 ** 64 - 2 ** 11, 2 ** 64 - 2 ** 11),
    one(2 ** 64 - 2 ** 11, 0xffff_ffff),
  ],
  'address 0': [outside('a segment', 1, 0, 0), one(0, 1)],
  'more chains than entries': [
    'more chains available than the queue has entries',
    (rig) => {
      rig.halves[(rig.driver.available - GUEST) / 2 + 1] = 17;
      rig.queue.kick();
    },
  ],
  'an index that goes back': [
    'more chains available than the queue has entries',
    (rig) => {
      rig.halves[(rig.driver.available - GUEST) / 2 + 1] = 0xffff;
      rig.queue.kick();
    },
  ],
  'a table that names a table': [
    'an indirect table in an indirect table',
    (rig) => {
      rig.descriptor(0, GUEST + TABLE, 16, INDIRECT);
      rig.entry(TABLE / 16, GUEST + TABLE, 16, INDIRECT);
      rig.offer(0);
    },
  ],
  'a table with a next descriptor': [
    'an indirect descriptor with a next one',
    (rig) => {
      rig.descriptor(0, GUEST + TABLE, 16, INDIRECT | NEXT, 1);
      rig.offer(0);
    },
  ],
  'an empty table': ['an indirect table of 0 bytes', table(0)],
  'a table of a part of a descriptor': ['an indirect table of 24 bytes', table(24)],
  'a table of too many descriptors': ['an indirect table of more than 1024 descriptors', table(1025 * 16)],
  'a table outside memory': [
    outside('an indirect table', 32, GUEST + MEMORY_BYTES - 16, GUEST + MEMORY_BYTES),
    (rig) => {
      rig.descriptor(0, GUEST + MEMORY_BYTES - 16, 32, INDIRECT);
      rig.offer(0);
    },
  ],
  'a next beyond the indirect table': [
    'a next beyond the indirect table',
    (rig) => {
      rig.descriptor(0, GUEST + TABLE, 16, INDIRECT);
      rig.entry(TABLE / 16, GUEST + DATA, 1, NEXT, 1);
      rig.offer(0);
    },
  ],
  'a loop in an indirect table': [
    'a loop in an indirect table',
    (rig) => {
      rig.descriptor(0, GUEST + TABLE, 32, INDIRECT);
      rig.entry(TABLE / 16, GUEST + DATA, 1, NEXT, 1);
      rig.entry(TABLE / 16 + 1, GUEST + DATA, 1, NEXT, 0);
      rig.offer(0);
    },
  ],
  'more than 4 GiB in all': [
    'a chain with too many segments or bytes',
    (rig) => {
      for (let i = 0; i < 1024; i++) {
        rig.entry(TABLE / 16 + i, GUEST, MEMORY_BYTES, i === 1023 ? 0 : NEXT, i + 1);
      }
      rig.descriptor(0, GUEST + TABLE, 16 * 1024, INDIRECT);
      rig.offer(0);
    },
  ],
  'more than 1024 segments in all': [
    'a chain with too many segments or bytes',
    (rig) => {
      rig.descriptor(0, GUEST + DATA, 1, NEXT, 1);
      for (let i = 0; i < 1024; i++) rig.entry(TABLE / 16 + i, GUEST + DATA, 1, i === 1023 ? 0 : NEXT, i + 1);
      rig.descriptor(1, GUEST + TABLE, 16 * 1024, INDIRECT);
      rig.offer(0);
    },
  ],
};

function one(address: number, length: number): (rig: Rig) => void {
  return (rig) => {
    rig.descriptor(0, address, length, 0);
    rig.offer(0);
  };
}

function table(bytes: number): (rig: Rig) => void {
  return (rig) => {
    rig.descriptor(0, GUEST + TABLE, bytes, INDIRECT);
    rig.offer(0);
  };
}

for (const [name, [violation, write]] of Object.entries(violations)) {
  test(`${name} stops the queue`, async () => {
    assert.equal(await take(write), violation);
  });
}

test('an indirect table stops a queue that did not negotiate them', async () => {
  assert.equal(
    await take(table(16), { features: RingFeature.VERSION_1 | RingFeature.EVENT_IDX }),
    'an indirect descriptor without INDIRECT_DESC',
  );
});

test('a chain that is made available again while the device has it stops the queue', async () => {
  const rig = new Rig();
  rig.start(() => undefined);
  rig.descriptor(3, GUEST + DATA, 1, 0);
  rig.offer(3, 3);
  await until(() => rig.queue.broken);
  assert.match(rig.warnings[0]!, /a chain made available again while the device has it/);
  assert.equal(rig.queue.inFlight, 1);
  rig.close();
});

test('after a broken ring was set up anew, requests are served again', () => {
  const rig = new Rig();
  let taken = 0;
  rig.start((message) => {
    taken += 1;
    message.complete(0);
  });
  rig.descriptor(0, GUEST, 1, NEXT, 99);
  rig.offer(0);
  assert.ok(rig.queue.broken);
  rig.descriptor(0, GUEST + DATA, 1, 0);
  rig.offer(0);
  assert.equal(taken, 0);
  rig.queue.stop();
  rig.queue.base = 1;
  rig.start((message) => {
    taken += 1;
    message.complete(0);
  });
  rig.queue.kick();
  assert.equal(taken, 1);
  assert.equal(rig.warnings.length, 1);
  rig.close();
});
