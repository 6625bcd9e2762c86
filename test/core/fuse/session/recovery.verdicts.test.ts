import assert from 'node:assert/strict';
import { test } from 'node:test';
import { recoverRequests, restoreSession, type Session } from '../../../../core/fuse/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { Journal, recoverExport, replay } from '../../../../core/state/index.js';
import { MemoryLog } from '../../../support/engine.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { journaled, PlainMemory } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import { TinyBackend } from '../../../support/tiny-backend.js';

const WORDS = 1024 + 2 * 8192;

interface Engine {
  readonly session: Session;
  readonly memory: PlainMemory;
}

/** A guest whose last request was a LOOKUP that it has the answer of. */
async function first(tiny: TinyBackend): Promise<Engine> {
  const memory = new PlainMemory(WORDS);
  const running = await journaled(tiny, memory);
  const { session, client } = running.kept();
  await client.init();
  await client.mkdir(ROOT, 'directory');
  await client.lookup(ROOT, 'directory');
  return { session, memory };
}

/** The engine that follows one that was killed. */
async function next(tiny: TinyBackend, { memory }: Engine): Promise<Engine> {
  const log = new MemoryLog();
  const left = replay(memory)!;
  const restored = await recoverExport(tiny, left, { log, createBuffer: hostBuffer });
  const session = await restoreSession(restored, restored.sessions[0]!);
  await recoverRequests(restored, left, [session]);
  const again = new PlainMemory(WORDS);
  const holder = { hold: () => 1, drop: () => undefined };
  const journal = new Journal(restored.export, { memory: again, holder, log });
  const kept = journal.register(session, { connection: 0, socket: 0 });
  session.journal = kept;
  for (const [unique, verdict] of session.recovered ?? [])
    kept.keep(unique | 0, Math.floor(unique / 2 ** 32) | 0, verdict);
  journal.begin();
  journal.boundary();
  restored.finish();
  return { session, memory: again };
}

const verdicts = ({ memory }: Engine) => replay(memory)!.sessions[0]!.verdicts;

test('what is known of requests that have not come again is forgotten, also by later engines', async () => {
  const tiny = new TinyBackend();
  let engine = await first(tiny);
  for (let kills = 0; kills < 3; kills++) {
    engine = await next(tiny, engine);
    assert.equal(engine.session.recovered?.size, 1);
    engine.session.haveComeAgain();
    assert.equal(engine.session.recovered, undefined);
    assert.deepEqual(verdicts(engine), []);
    const client = new FuseClient(new Loopback(engine.session));
    while (client.unique < 100n * BigInt(kills + 1)) client.encode(0, 0n, new Uint8Array(0));
    await client.lookup(ROOT, 'directory');
  }
});

test('a guest that mounts anew is not given answers to requests of its former mount', async () => {
  const tiny = new TinyBackend();
  const second = await next(tiny, await first(tiny));
  assert.equal(verdicts(second).length, 1);
  const client = new FuseClient(new Loopback(second.session));
  await client.init();
  const third = await next(tiny, second);
  // The one of INIT itself is the last.
  assert.deepEqual(
    verdicts(third).map(({ verdict }) => verdict.kind),
    ['answered'],
  );
  const again = new FuseClient(new Loopback(third.session));
  while (again.unique < client.unique) again.encode(0, 0n, new Uint8Array(0));
  for (let i = 0; i < 5; i++) {
    await again.mkdir(ROOT, `made${i}`);
    assert.ok(tiny.root.children.has(`made${i}`));
  }
});
