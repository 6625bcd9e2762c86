import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import type { Backend } from '../../core/backend/index.js';
import { engine } from '../support/engine.js';
import { ROOT } from '../support/fuse-client.js';
import { GatheringBackend } from '../support/gathering-backend.js';
import { QueueFailed } from '../support/loopback.js';
import { TinyBackend, asynchronous } from '../support/tiny-backend.js';
import { checkReply, Guesses, makeRequest } from '../support/hostile-requests.js';
import { Random, withSeed } from '../support/random.js';

/** How many requests are sent; VIRTIOFS_KIT_FUZZ sets another number. */
const REQUESTS = Number(process.env['VIRTIOFS_KIT_FUZZ'] ?? 100_000);

/** Requests that are in the guest's queue at a time. */
const TOGETHER = 64;

async function fuzz(
  seed: number,
  backend: (tiny: TinyBackend) => Backend,
  requests: number,
  tiny = new TinyBackend(),
): Promise<void> {
  const random = new Random(seed);
  const running = await engine(backend(tiny), {
    limits: { nodes: 200, handles: 50, locks: { sessionWaiters: 20 } },
  });
  const { client, loopback, session } = running.guest({ drainTimeoutMs: 1000 });
  await client.init();
  const guesses = new Guesses();
  const pending = new Set<Promise<void>>();
  loopback.cut = (length) => {
    if (random.chance(60)) return [Math.min(40, length), Math.max(0, length - 40)];
    const cuts: number[] = [];
    for (let left = length; left > 0;) {
      const piece = cuts.length > 20 ? left : 1 + random.below(Math.min(left, 100));
      cuts.push(piece);
      left -= piece;
    }
    return cuts;
  };
  for (let i = 0; i < requests; i++) {
    if (i % TOGETHER === 0) loopback.announce(TOGETHER);
    const { opcode, node, bytes } = makeRequest(random, guesses, client);
    const room = random.chance(85) ? 10_000 : random.below(200);
    const answered = loopback.request(1, bytes, room).then(
      (reply) => checkReply(reply, opcode, node, guesses),
      (error: unknown) => assert.ok(error instanceof QueueFailed, String(error)),
    );
    pending.add(answered);
    void answered.finally(() => pending.delete(answered));
    if (i % TOGETHER === TOGETHER - 1) {
      loopback.submit();
      await new Promise((resolve) => setImmediate(resolve));
    }
    // A guest whose session ended, by a DESTROY or a broken INIT, starts again.
    if (session.negotiated === undefined && random.chance(5)) await client.init();
  }
  loopback.submit();
  await session.drain();
  await Promise.all(pending);
  assert.equal(loopback.pending, 0);
  assert.equal(session.inFlight, 0);
  assert.deepEqual(running.log.errors, []);
  assert.equal(session.counters.faults, 0);
  await client.init();
  // An answer that comes too late for its guest closes the handle. No request waits for that.
  for (let turn = 0; turn < 100 && session.handles.size + tiny.openFiles.size > 0; turn++)
    await new Promise((resolve) => setImmediate(resolve));
  assert.equal(session.handles.size, 0);
  assert.equal(running.export.nodes.size, 1);
  assert.deepEqual(running.export.locks.counts, { locks: 0, waiters: 0 });
  assert.equal(running.export.listings.used, 0);
  assert.equal(tiny.openFiles.size, 0);
  assert.deepEqual(
    [...tiny.known].filter((node) => node !== tiny.root),
    [],
  );
  const { entry, open } = await client.create(ROOT, 'afterwards', 0o600);
  await client.write(entry.nodeid, open.fh, 0, Buffer.from('well'));
  assert.equal(Buffer.from(await client.read(entry.nodeid, open.fh, 0, 9)).toString(), 'well');
  await client.release(entry.nodeid, open.fh);
  await session.close();
}

/** Another seed on each run. */
const fromSeed = (t: TestContext, body: (seed: number) => Promise<void>) =>
  withSeed(t, Date.now() % 1_000_000_007, body);

describe('hostile FUSE requests', () => {
  it(`do no harm to a synchronous backend's session: ${REQUESTS} of them`, (t) =>
    fromSeed(t, (seed) => fuzz(seed, (tiny) => tiny, REQUESTS)));
  it(`do no harm to an asynchronous backend's session: ${REQUESTS / 4} of them`, (t) =>
    fromSeed(t, (seed) => fuzz(seed, (tiny) => asynchronous(tiny), REQUESTS / 4)));
  it(`do no harm to the session of a backend that gathers: ${REQUESTS / 2} of them`, (t) =>
    fromSeed(t, async (seed) => {
      const tiny = new GatheringBackend();
      tiny.givesPromises = true;
      tiny.gathersLookups = true;
      await fuzz(seed, () => tiny, REQUESTS / 2, tiny);
      assert.ok(tiny.submitted.length > 0, 'there was something to gather');
    }));
  it(`do no harm to the session of a backend that carries out beside others: ${REQUESTS / 2} of them`, (t) =>
    fromSeed(t, async (seed) => {
      const tiny = new GatheringBackend();
      tiny.givesPromises = true;
      tiny.gathersLookups = true;
      tiny.runsLater = true;
      await fuzz(seed, () => tiny, REQUESTS / 2, tiny);
      assert.ok(tiny.later > 0, 'something was carried out later');
    }));
});
