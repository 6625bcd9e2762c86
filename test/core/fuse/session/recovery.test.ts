import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type Backend,
  type BackendMethod,
  type FsStatistics,
  type IoctlResult,
  wrapEach,
} from '../../../../core/backend/index.js';
import { recoverRequests, restoreSession, Session } from '../../../../core/fuse/index.js';
import { operations } from '../../../../core/fuse/operations/table.js';
import { Opcode } from '../../../../core/fuse/wire/abi.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { Journal, recoverExport, replay } from '../../../../core/state/index.js';
import { MemoryLog } from '../../../support/engine.js';
import { FuseClient, type FuseTransport, ROOT } from '../../../support/fuse-client.js';
import { journaled, PlainMemory } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import {
  BESIDE,
  type Case,
  cases,
  COLLAPSE_RANGE,
  repeatable,
  type Seen,
  WITHOUT_EFFECT,
} from '../../../support/opcode-cases.js';
import { asynchronous, TinyBackend, type TinyFile, type TinyNode } from '../../../support/tiny-backend.js';

const WORDS = 1024 + 2 * 16_384;

/** Where a process is killed that carries out a request. */
const STAGES = ['taken', 'before the change', 'after the change', 'answered, not published'] as const;
type Stage = (typeof STAGES)[number];

/** Methods that {@link TinyBackend} does without. */
class WholeBackend extends TinyBackend {
  flags = 0;

  flush(): void {
    this.flags |= 0;
  }

  fsync(): void {
    this.flags |= 0;
  }

  fsyncdir(): void {
    this.flags |= 0;
  }

  syncfs(): void {
    this.flags |= 0;
  }

  override statfs(): FsStatistics {
    return { blocks: 1000, blocksFree: 500, files: 10 };
  }

  ioctl(_node: TinyNode, _file: TinyFile, command: number, input: Uint8Array): IoctlResult {
    this.flags = input[0]!;
    return { result: command, output: input };
  }

  override fallocate(node: TinyNode, file: TinyFile, mode: number, offset: number, length: number): void {
    if (mode !== COLLAPSE_RANGE) {
      super.fallocate(node, file, mode, offset, length);
      return;
    }
    node.data = Uint8Array.from([...node.data.subarray(0, offset), ...node.data.subarray(offset + length)]);
  }
}

const seenOf = (tiny: WholeBackend): Seen => {
  const child = (name: string): TinyNode => tiny.root.children.get(name)!;
  return {
    names: () =>
      [...tiny.root.children.keys()]
        .filter((name) => name !== BESIDE)
        .sort()
        .join(' '),
    content: (name) => Buffer.from(child(name).data).toString(),
    target: (name) => child(name).target,
    nlink: (name) => child(name).nlink,
    mode: (name) => child(name).mode & 0o777,
    flags: () => tiny.flags,
  };
};

/** What the guest does beside the request that is tried. */
interface Beside {
  /** Where a request of another queue is when the process is killed. */
  readonly other?: 'before the change' | 'after the change';
  /**
   * A queue thread has passed the request on, and has not published the answer. So many others were
   * passed on and answered after it.
   */
  readonly passedOnAfter?: number;
  /** The guest has looked the names up before, as Linux does. */
  readonly looks?: boolean;
}

/** Where the queue thread has a request. */
const PLACE = 5;

/** So many that the journal is gathered anew meanwhile. */
const MANY = 5000;

/** Carries requests, unless it is dead, and keeps the last one. */
class Recorder implements FuseTransport {
  readonly #loopback: Loopback;
  last: readonly [queue: number, input: Uint8Array, outSize: number] | undefined;
  /** The reply to that, if it is there. */
  reply: Uint8Array | undefined;
  isDead = false;

  constructor(loopback: Loopback) {
    this.#loopback = loopback;
  }

  async request(queue: number, input: Uint8Array, outSize: number): Promise<Uint8Array> {
    this.last = [queue, input.slice(), outSize];
    this.reply = undefined;
    if (this.isDead) throw new Killed();
    const reply = await this.#loopback.request(queue, input, outSize);
    this.reply = reply;
    return reply;
  }
}

/** A backend that counts how often a method has made its change, and tells of it. */
function watched(
  inner: Backend,
  method: BackendMethod | undefined,
  on: (stage: Stage) => void,
): { backend: Backend; made(): number } {
  let made = 0;
  const backend = wrapEach(inner, (name, next, args) => {
    if (name !== method || args[1] === BESIDE) return next();
    on('before the change');
    const result = next();
    const after = (value: unknown): unknown => {
      made += 1;
      on('after the change');
      return value;
    };
    return result instanceof Promise ? result.then(after) : after(result);
  });
  return { backend, made: () => made };
}

/** A backend that makes {@link BESIDE} at first no further than that until it is let go. */
function heldBeside(inner: Backend, stage: Beside['other']) {
  let reach = (): void => undefined;
  let letGo = (): void => undefined;
  const reached = new Promise<void>((resolve) => (reach = resolve));
  const released = new Promise<void>((resolve) => (letGo = resolve));
  let isFirst = true;
  const backend = wrapEach(inner, async (name, next, args) => {
    if (!isFirst || name !== 'mknod' || args[1] !== BESIDE) return next();
    isFirst = false;
    const made = stage === 'after the change' ? await next() : undefined;
    reach();
    await released;
    return made ?? next();
  });
  return { backend, reached, letGo: () => letGo() };
}

/** Thrown where a process would be killed: what follows in it is of no account. */
class Killed extends Error {}

async function survive(
  { method, prepare, request, check }: Case,
  stage: Stage,
  isAsynchronous: boolean,
  kills: number,
  { other, passedOnAfter, looks }: Beside = {},
): Promise<number> {
  const tiny = new WholeBackend();
  const memory = new PlainMemory(passedOnAfter === MANY ? 8 * WORDS : WORDS);
  let left: Int32Array | undefined;
  let isArmed = false;
  const on = (reached: Stage): void => {
    if (!isArmed || reached !== stage || left !== undefined) return;
    left = memory.words.slice();
    if (reached === 'before the change') throw new Killed();
  };
  const plain = isAsynchronous ? asynchronous(tiny) : tiny;
  const held = other === undefined ? undefined : heldBeside(plain, other);
  const inner = held?.backend ?? plain;
  const { backend, made } = watched(inner, method, on);
  const running = await journaled(backend, memory);
  const { session, loopback } = running.kept();
  const recorder = new Recorder(loopback);
  const client = new FuseClient(recorder);
  await client.init();
  const known = (await prepare?.(client)) ?? { nodeid: 0n, fh: 0n };
  const usual = looks === true ? ['new', 'file', 'directory'] : [];
  for (const name of usual) await client.lookup(ROOT, name).catch(() => undefined);
  const requests: Recorder['last'][] = [];
  const beside = held === undefined ? undefined : client.mknod(ROOT, BESIDE, 0o010600);
  if (beside !== undefined) requests.push(recorder.last);
  await held?.reached;
  const before = made();
  isArmed = true;
  recorder.isDead = stage === 'taken';
  if (passedOnAfter !== undefined) loopback.place = PLACE;
  await request(client, known).catch(() => undefined);
  const tried = recorder.last;
  requests.push(tried);
  const answer = stage === 'answered, not published' ? recorder.reply : undefined;
  const isOvertaken = passedOnAfter !== undefined && stage === 'answered, not published';
  if (isOvertaken) {
    loopback.place = PLACE + 1;
    await client.mknod(ROOT, BESIDE, 0o010600);
    const orders = new Set<number>();
    for (let i = 0; i < passedOnAfter; i++) {
      await client.lookup(ROOT, BESIDE);
      session.submit();
      orders.add(memory.words[2]!);
    }
    assert.equal(orders.size > 1, passedOnAfter === MANY, 'whether the journal was gathered anew');
  }
  // The last store before the reply is published is the journal's.
  left ??= memory.words.slice();

  const log = new MemoryLog();
  let words = left;
  let next: Session | undefined;
  for (let kill = 0; kill < kills; kill++) {
    const found = replay({ words, discard: () => undefined })!;
    const restored = await recoverExport(backend, found, { log, createBuffer: hostBuffer });
    next = await restoreSession(restored, restored.sessions[0]!);
    await recoverRequests(restored, found, [next]);
    const again = new PlainMemory(WORDS);
    const holder = { hold: () => 1, drop: () => undefined };
    const journal = new Journal(restored.export, { memory: again, holder, log });
    const kept = journal.register(next, { connection: 0, socket: 0 });
    next.journal = kept;
    for (const [unique, verdict] of next.recovered ?? [])
      kept.keep(unique | 0, Math.floor(unique / 2 ** 32) | 0, verdict);
    journal.begin();
    journal.boundary();
    restored.finish();
    words = again.words;
  }
  for (const sent of requests.toReversed()) {
    const reply = await new Loopback(next!).request(...sent!);
    // What has no reply has no room for one.
    if (sent![2] === 0) continue;
    const errno = new DataView(reply.buffer, reply.byteOffset).getInt32(4, true);
    assert.equal(errno, 0, 'the reply');
    if (sent === tried && answer !== undefined) assert.deepEqual(reply, answer, 'the same reply');
  }
  assert.equal(tiny.root.children.has(BESIDE), held !== undefined || isOvertaken);
  // The new client's requests have other ids than those that come again.
  const second = new FuseClient(new Loopback(next!));
  next!.recovered = undefined;
  await check(second, seenOf(tiny), known);
  await next!.close();
  held?.letGo();
  await beside?.catch(() => undefined);
  await session.close();
  return made() - before;
}

/** Requests of the guest as a whole: nothing of it is under way beside them. */
const ALONE = new Set(['INIT', 'DESTROY']);

for (const isAsynchronous of [false, true]) {
  const kind = isAsynchronous ? 'an asynchronous backend' : 'a synchronous backend';
  describe(`on ${kind}, a request is carried out once whenever its process is killed`, () => {
    for (const [name, one] of Object.entries(cases))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2]) assert.equal(await survive(one, stage, isAsynchronous, kills), 1);
        });
  });
  describe(`on ${kind}, so is one whose names the guest has looked up`, () => {
    for (const [name, one] of Object.entries(cases))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2])
            assert.equal(await survive(one, stage, isAsynchronous, kills, { looks: true }), 1);
        });
  });
  describe(`on ${kind}, so is one that a queue thread has passed on`, () => {
    for (const [name, one] of Object.entries(cases))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          const beside = { passedOnAfter: 1 };
          for (const kills of [1, 2])
            assert.equal(await survive(one, stage, isAsynchronous, kills, beside), 1);
        });
    test('CREATE, and the journal was gathered anew', async () => {
      const [create, stage] = [cases['CREATE']!, STAGES[3]];
      assert.equal(await survive(create, stage, isAsynchronous, 2, { passedOnAfter: MANY }), 1);
    });
  });
  describe(`on ${kind}, a request that may be repeated leaves the same`, () => {
    for (const [name, one] of Object.entries(repeatable))
      for (const stage of STAGES)
        test(`${name}, ${stage}`, async () => {
          for (const kills of [1, 2])
            for (const beside of ALONE.has(name) ? [{}] : [{}, { passedOnAfter: 1 }])
              await survive(one, stage, isAsynchronous, kills, beside);
        });
  });
}

describe('two requests of two queues are carried out once each', () => {
  for (const [name, one] of Object.entries({ ...cases, ...repeatable })) {
    if (ALONE.has(name)) continue;
    for (const other of ['before the change', 'after the change'] as const)
      for (const stage of STAGES)
        test(`${name}, ${stage}, and MKNOD, ${other}`, async () => {
          for (const kills of [1, 2]) {
            const made = await survive(one, stage, true, kills, { other });
            if (name in cases) assert.equal(made, 1);
          }
        });
  }
});

test('there is a row for each opcode', () => {
  const rows = [...Object.keys(cases), ...Object.keys(repeatable), ...WITHOUT_EFFECT];
  const tried = new Set(rows.map((row) => row.split(' ')[0]));
  assert.deepEqual([...tried].sort(), Object.keys(Opcode).sort());
  for (const name of WITHOUT_EFFECT) {
    const { start } = operations[Opcode[name as keyof typeof Opcode]]!;
    assert.equal(start.length, 0, `${name} looks at its request`);
  }
});
