import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { FsError } from '../../../../core/backend/index.js';
import { engine, type Guest, type MemoryLog } from '../../../support/engine.js';
import { FuseError, ROOT, type FuseClient } from '../../../support/fuse-client.js';
import { GatheringBackend } from '../../../support/gathering-backend.js';
import { checkProperty } from '../../../support/random.js';
import type { TinyNode } from '../../../support/tiny-backend.js';

const ENOENT = 2;
const EBADF = 9;
const EIO = 5;
const ENOTDIR = 20;
const ENFILE = 23;
const BLOCK_BYTES = 512;

interface Mounted extends Guest {
  readonly tiny: GatheringBackend;
  readonly log: MemoryLog;
  readonly nodeid: bigint;
  readonly fh: bigint;
}

/** A guest with an open file of 32 blocks, each filled with its number. */
async function mounted(): Promise<Mounted> {
  const tiny = new GatheringBackend();
  const { guest, log } = await engine(tiny);
  const connected = guest();
  await connected.client.init();
  const { entry, open } = await connected.client.create(ROOT, 'file');
  for (let i = 0; i < 32; i++) {
    await connected.client.write(entry.nodeid, open.fh, i * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, i));
  }
  tiny.single = 0;
  return { ...connected, tiny, log, nodeid: entry.nodeid, fh: open.fh };
}

/** Reads of the first `count` blocks. */
function reads(client: FuseClient, { nodeid, fh }: Mounted, count: number): (() => Promise<Uint8Array>)[] {
  return Array.from({ length: count }, (_, i) => () => client.read(nodeid, fh, i * BLOCK_BYTES, BLOCK_BYTES));
}

function assertBlocks(answers: readonly PromiseSettledResult<unknown>[], count: number): void {
  for (let i = 0; i < count; i++) {
    const answer = answers[i]!;
    assert.equal(answer.status, 'fulfilled');
    assert.deepEqual(Buffer.from(answer.value as Uint8Array), Buffer.alloc(BLOCK_BYTES, i));
  }
}

function errnoOf(answer: PromiseSettledResult<unknown> | undefined): number {
  assert.equal(answer?.status, 'rejected');
  assert.ok(answer.reason instanceof FuseError);
  return answer.reason.errno;
}

/** A mounted guest. Its backend carries requests out later where that is allowed. */
async function aside(): Promise<Mounted> {
  const guest = await mounted();
  guest.tiny.runsLater = true;
  return guest;
}

for (const { count, submitted, single } of [
  { count: 1, submitted: [], single: 1 },
  { count: 7, submitted: [], single: 7 },
  { count: 8, submitted: [8], single: 0 },
  { count: 15, submitted: [15], single: 0 },
  { count: 16, submitted: [8, 8], single: 0 },
  { count: 31, submitted: [16, 15], single: 0 },
  { count: 32, submitted: [16, 16], single: 0 },
]) {
  test(`of ${count} reads in sight ${submitted.join(' and ') || 'none'} are carried out together`, async () => {
    const guest = await mounted();
    assertBlocks(await guest.loopback.together(reads(guest.client, guest, count)), count);
    assert.deepEqual(guest.tiny.submitted, submitted);
    assert.equal(guest.tiny.single, single);
  });
}

test('of 100 reads in sight 32 at most are carried out together', async () => {
  const guest = await mounted();
  const { client, nodeid, fh } = guest;
  const calls = Array.from(
    { length: 100 },
    (_, i) => () => client.read(nodeid, fh, (i % 32) * BLOCK_BYTES, 1),
  );
  await guest.loopback.together(calls);
  assert.equal(Math.max(...guest.tiny.submitted), 32);
  assert.equal(guest.tiny.submitted.reduce((sum, count) => sum + count) + guest.tiny.single, 100);
});

test('what may close or forget something, or anything else that changes, comes after what was gathered before it', async () => {
  const guest = await mounted();
  const { client, loopback, nodeid, fh } = guest;
  const second = await client.open(nodeid, 2);
  const answers = await loopback.together<unknown>([
    ...reads(client, guest, 10),
    () => client.release(nodeid, fh),
    () => client.read(nodeid, fh, 0, BLOCK_BYTES),
    ...reads(client, { ...guest, fh: second.fh }, 10),
    () => client.setattr(nodeid, { size: 0 }),
    ...reads(client, { ...guest, fh: second.fh }, 10),
    () => client.unlink(ROOT, 'file'),
    () => client.release(nodeid, second.fh),
    () => client.forget(nodeid),
  ]);
  assertBlocks(answers, 10);
  assert.equal(errnoOf(answers[11]), EBADF);
  assertBlocks(answers.slice(12), 10);
  for (const answer of answers.slice(23, 33)) {
    assert.deepEqual(answer, { status: 'fulfilled', value: new Uint8Array(0) });
  }
  assert.equal(guest.tiny.openFiles.size, 0);
  assert.equal(guest.tiny.known.size, 0);
  assert.deepEqual(guest.log.errors, []);
});

test('attributes and names are asked for without carrying out what is gathered', async () => {
  const guest = await mounted();
  const { client, loopback, nodeid } = guest;
  const answers = await loopback.together<unknown>([
    ...reads(client, guest, 6),
    () => client.getattr(nodeid),
    () => client.lookup(ROOT, 'file'),
    ...reads(client, guest, 4),
  ]);
  assertBlocks(answers, 6);
  assertBlocks(answers.slice(8), 4);
  assert.deepEqual(guest.tiny.submitted, [10]);
});

test('attributes and names are gathered with reads, each answered by what it asked for', async () => {
  const guest = await mounted();
  const { client, loopback, nodeid, tiny } = guest;
  tiny.gathersLookups = true;
  const attr = await client.getattr(nodeid);
  const answers = await loopback.together<unknown>([
    ...reads(client, guest, 6),
    () => client.getattr(nodeid),
    () => client.lookup(ROOT, 'file').then((entry) => [entry.nodeid, entry.attr]),
    () => client.lookup(ROOT, 'missing'),
    () => client.getattr(ROOT).then(({ mode }) => mode),
    () => client.lookup(nodeid, 'below a file'),
  ]);
  assert.deepEqual(tiny.submitted, [11]);
  assertBlocks(answers, 6);
  assert.deepEqual(answers[6], { status: 'fulfilled', value: attr });
  assert.deepEqual(answers[7], { status: 'fulfilled', value: [nodeid, attr] });
  assert.equal(errnoOf(answers[8]), ENOENT);
  assert.deepEqual(answers[9], { status: 'fulfilled', value: tiny.root.mode });
  assert.equal(errnoOf(answers[10]), ENOTDIR);
});

test('requests without data are gathered whatever came before them', async () => {
  const guest = await mounted();
  const { client, loopback, nodeid, fh, tiny } = guest;
  tiny.gathersLookups = true;
  for (let i = 0; i < 40; i++) await client.write(nodeid, fh, 0, Buffer.alloc(64 * 1024));
  await loopback.together<unknown>(Array.from({ length: 12 }, () => () => client.getattr(nodeid)));
  assert.deepEqual(tiny.submitted, [12]);
});

test('a name that was gathered is known to nobody where its guest started anew meanwhile', async () => {
  const guest = await aside();
  const { client, loopback, tiny } = guest;
  tiny.gathersLookups = true;
  tiny.stuck = true;
  loopback.announce(20);
  const asking = Promise.allSettled(Array.from({ length: 16 }, () => client.lookup(ROOT, 'file')));
  await client.init();
  loopback.submit();
  tiny.stuck = false;
  tiny.completions.collect();
  for (const answer of await asking) assert.equal(errnoOf(answer), EIO);
  assert.equal(tiny.known.size, 0);
  assert.deepEqual(guest.log.errors, []);
});

test('where there was little to gather, chances are passed over, and taken again later', async () => {
  const guest = await mounted();
  const { client, loopback, nodeid, tiny } = guest;
  const mostlyOthers = [
    ...reads(client, guest, 1),
    ...Array.from({ length: 9 }, () => () => client.open(nodeid)),
  ];
  for (let round = 0; round < 40; round++) await loopback.together<unknown>(mostlyOthers);
  // The 1st, 3rd, 7th, 15th and 31st chance are taken. After each, about twice as many are passed
  // over.
  assert.deepEqual(tiny.submitted, [1, 1, 1, 1, 1]);
  assert.equal(tiny.single, 35);
  tiny.submitted.length = 0;
  for (let round = 0; round < 10; round++) await loopback.together(reads(client, guest, 10));
  assert.ok(tiny.submitted.includes(10), 'it goes on once it pays');
});

test('results may be promises, of success or failure', async () => {
  const guest = await mounted();
  guest.tiny.givesPromises = true;
  const { client, loopback, nodeid, fh } = guest;
  const answers = await loopback.together<unknown>([
    ...reads(client, guest, 10),
    () => client.write(nodeid, fh, 1 << 24, Buffer.from('x')),
    () => client.write(nodeid, fh, 1 << 24, Buffer.from('x')),
  ]);
  assertBlocks(answers, 10);
  for (const answer of answers.slice(10)) assert.equal(errnoOf(answer), 27);
});

/** A backend that has no descriptor left for one of its names. */
class WithoutDescriptors extends GatheringBackend {
  override lookup(parent: TinyNode, name: string) {
    if (name === 'one too many') throw FsError.of('EMFILE');
    return super.lookup(parent, name);
  }
}

for (const { ways, set } of [
  { ways: 'one by one', set: {} },
  { ways: 'gathered', set: { gathersLookups: true } },
  { ways: 'gathered, with promises', set: { gathersLookups: true, givesPromises: true } },
  { ways: 'gathered and carried out later', set: { gathersLookups: true, runsLater: true } },
  {
    ways: 'gathered by a backend that throws',
    set: { gathersLookups: true, failure: FsError.of('EMFILE') },
  },
]) {
  test(`the daemon's lack of descriptors is ENFILE for guests: ${ways}`, async () => {
    const tiny = new WithoutDescriptors();
    Object.assign(tiny, set);
    const { client, loopback } = (await engine(tiny)).guest();
    await client.init();
    const calls = Array.from({ length: 10 }, () => () => client.lookup(ROOT, 'one too many'));
    const answers = await loopback.together(calls);
    assert.deepEqual(
      answers.map((answer) => errnoOf(answer)),
      answers.map(() => ENFILE),
    );
    assert.equal(tiny.submitted.length > 0, tiny.gathersLookups);
  });
}

test('a backend that fails to carry out what it gathered answers all of it with EIO, and goes on', async () => {
  const guest = await mounted();
  guest.tiny.failure = new Error('lost its way');
  const answers = await guest.loopback.together(reads(guest.client, guest, 10));
  for (const answer of answers) assert.equal(errnoOf(answer), EIO);
  assert.ok(guest.log.errors.length > 0);
  guest.tiny.failure = undefined;
  assertBlocks(await guest.loopback.together(reads(guest.client, guest, 10)), 10);
});

const steps = fc.array(
  fc.oneof(
    fc.record({
      kind: fc.constant('read' as const),
      block: fc.nat(40),
      size: fc.integer({ min: 1, max: 2000 }),
    }),
    fc.record({
      kind: fc.constant('write' as const),
      block: fc.nat(40),
      size: fc.integer({ min: 1, max: 2000 }),
    }),
    fc.record({
      kind: fc.constantFrom('getattr', 'lookup', 'fsync', 'reopen'),
      block: fc.constant(0),
      size: fc.constant(0),
    }),
  ),
  { minLength: 1, maxLength: 60 },
);

test('requests sent together do what they do one by one', async (t) => {
  await checkProperty(
    t,
    fc.asyncProperty(
      fc.array(steps, { minLength: 1, maxLength: 4 }),
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      async (batches, late, isAside, looks) => {
        const outcomes: unknown[][] = [];
        for (const isTogether of [false, true]) {
          const guest = await mounted();
          const { client, loopback, nodeid, fh, tiny } = guest;
          tiny.givesPromises = late;
          tiny.runsLater = isAside;
          tiny.gathersLookups = looks;
          const answers: unknown[] = [];
          for (const [number, batch] of batches.entries()) {
            const calls = batch.map(({ kind, block, size }, i) => (): Promise<unknown> => {
              const data = Buffer.alloc(size, number * 64 + i);
              if (kind === 'read') return client.read(nodeid, fh, block * BLOCK_BYTES, size);
              if (kind === 'write') return client.write(nodeid, fh, block * BLOCK_BYTES, data);
              if (kind === 'getattr') return client.getattr(nodeid).then(({ mode }) => mode);
              if (kind === 'lookup') return client.lookup(ROOT, 'file').then(({ attr }) => attr.mode);
              if (kind === 'fsync') return client.fsync(nodeid, fh).catch((error: FuseError) => error.errno);
              return client.open(nodeid).then(() => 'open');
            });
            if (isTogether) answers.push(...(await loopback.together(calls)));
            else for (const call of calls) answers.push(...(await Promise.allSettled([call()])));
          }
          answers.push(Buffer.from(await client.read(nodeid, fh, 0, 64 * 1024)));
          outcomes.push(answers);
        }
        assert.deepEqual(outcomes[1], outcomes[0]);
      },
    ),
    { numRuns: 100 },
  );
});

test('what is carried out beside the others is answered later, and they meanwhile', async () => {
  const guest = await aside();
  const { client, loopback, session, tiny, nodeid } = guest;
  tiny.stuck = true;
  loopback.announce(17);
  const reading = Promise.allSettled(reads(client, guest, 16).map((read) => read()));
  const asking = client.getattr(nodeid);
  loopback.submit();
  await asking;
  // The first half waits. The second half had no request behind it, and was carried out at once.
  assert.deepEqual([tiny.submitted, tiny.later], [[9, 7], 1]);
  assert.equal(session.inFlight, 9);
  assert.equal(loopback.pending, 9);
  tiny.stuck = false;
  tiny.completions.collect();
  assertBlocks(await reading, 16);
  assert.equal(session.inFlight, 0);
});

test('what nobody waits behind is carried out at once', async () => {
  const guest = await aside();
  assertBlocks(await guest.loopback.together(reads(guest.client, guest, 10)), 10);
  assert.deepEqual([guest.tiny.submitted, guest.tiny.later], [[10], 0]);
});

test('of large requests each is carried out by itself, where another one follows', async () => {
  const guest = await aside();
  const { client, loopback, nodeid, fh, tiny } = guest;
  const size = 64 * 1024;
  await client.write(nodeid, fh, 0, Buffer.alloc(size, 'x'));
  tiny.single = 0;
  const answers = await loopback.together(
    Array.from({ length: 4 }, () => () => client.read(nodeid, fh, 0, size)),
  );
  for (const answer of answers) {
    assert.equal(answer.status, 'fulfilled');
    assert.deepEqual(Buffer.from(answer.value), Buffer.alloc(size, 'x'));
  }
  assert.deepEqual([tiny.submitted, tiny.later, tiny.single], [[1, 1, 1], 3, 1]);
});

test('a file that is read beside stays open until that ends, and its node known', async () => {
  const guest = await aside();
  const { client, loopback, tiny, nodeid, fh } = guest;
  tiny.stuck = true;
  loopback.announce(20);
  const reading = Promise.allSettled(reads(client, guest, 16).map((read) => read()));
  await Promise.all([client.unlink(ROOT, 'file'), client.release(nodeid, fh)]);
  void client.forget(nodeid);
  loopback.submit();
  assert.equal(tiny.openFiles.size, 1);
  assert.ok(tiny.known.size > 0);
  tiny.stuck = false;
  tiny.completions.collect();
  assertBlocks(await reading, 16);
  assert.equal(tiny.openFiles.size, 0);
  assert.equal(tiny.known.size, 0);
  assert.deepEqual(guest.log.errors, []);
});

test('a guest that starts anew gets no answer to what it had asked for, and its files are closed afterwards', async () => {
  const guest = await aside();
  const { client, loopback, session, tiny } = guest;
  tiny.stuck = true;
  loopback.announce(20);
  const reading = Promise.allSettled(reads(client, guest, 16).map((read) => read()));
  await client.init();
  loopback.submit();
  assert.equal(tiny.openFiles.size, 1);
  tiny.stuck = false;
  tiny.completions.collect();
  const answers = await reading;
  for (const answer of answers) assert.equal(errnoOf(answer), EIO);
  assert.equal(session.inFlight, 0);
  assert.equal(tiny.openFiles.size, 0);
});

test('what does not end is answered with EIO by a drain, and harmless when it does end', async () => {
  const tiny = new GatheringBackend();
  const { guest, log } = await engine(tiny);
  const { client, loopback, session } = guest({ drainTimeoutMs: 10 });
  await client.init();
  const { entry, open } = await client.create(ROOT, 'file');
  tiny.runsLater = true;
  tiny.stuck = true;
  loopback.announce(20);
  const reading = Promise.allSettled(
    Array.from({ length: 8 }, () => client.read(entry.nodeid, open.fh, 0, BLOCK_BYTES)),
  );
  loopback.submit();
  assert.equal(session.inFlight, 8);
  await session.drain();
  for (const answer of await reading) assert.equal(errnoOf(answer), EIO);
  tiny.stuck = false;
  tiny.completions.collect();
  await client.release(entry.nodeid, open.fh);
  assert.equal(tiny.openFiles.size, 0);
  assert.deepEqual(log.errors, []);
});
