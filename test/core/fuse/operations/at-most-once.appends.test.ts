import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { Awaitable } from '../../../../core/backend/index.js';
import { recoverRequests, restoreSession } from '../../../../core/fuse/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import { Journal, recoverExport, replay, type SessionJournal } from '../../../../core/state/index.js';
import { MemoryLog } from '../../../support/engine.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { GatheringBackend } from '../../../support/gathering-backend.js';
import { journaled, PlainMemory } from '../../../support/journaled.js';
import { Loopback } from '../../../support/loopback.js';
import { TinyBackend } from '../../../support/tiny-backend.js';

const WORDS = 1024 + 2 * 8192;
const ENOSPC = 28;

/** Appends that come together. Each has another length. */
const TEXTS = Array.from({ length: 10 }, (_, i) => `${i}:${'x'.repeat(i)};`);
const BEFORE = 'before;';

type Submit = GatheringBackend['submit'];

interface Ended {
  readonly tiny: GatheringBackend;
  /** What the process has left. */
  readonly words: Int32Array;
  readonly nodeid: bigint;
  readonly fh: bigint;
  /** The id of the request before the first append. */
  readonly unique: bigint;
}

/**
 * A guest appends to a file, and the process ends.
 * @param submit stands for the backend's.
 * @param answers after so many of them are answered; otherwise at the end of `submit`.
 */
async function end(submit: (its: Submit) => Submit, answers?: number): Promise<Ended> {
  const memory = new PlainMemory(WORDS);
  const tiny = new GatheringBackend();
  const running = await journaled(tiny, memory);
  const { client, session, loopback } = running.kept();
  await client.init();
  const { entry, open } = await client.create(ROOT, 'log', 0o644, 0o2002);
  await client.write(entry.nodeid, open.fh, 0, Buffer.from(BEFORE));
  let words: Int32Array | undefined;
  const replaced = submit(tiny.submit.bind(tiny));
  tiny.submit = (results, later) => {
    try {
      return replaced(results, later);
    } finally {
      if (answers === undefined) words ??= memory.words.slice();
    }
  };
  const journal = session.journal!;
  const answered = journal.answered.bind(journal);
  let count = 0;
  journal.answered = (...args: Parameters<SessionJournal['answered']>) => {
    answered(...args);
    count += 1;
    if (count === answers) words = memory.words.slice();
  };
  const { unique } = client;
  await loopback.together(
    TEXTS.map((text) => () => client.write(entry.nodeid, open.fh, 0, Buffer.from(text))),
  );
  assert.ok(tiny.submitted.length > 0, 'appends were gathered');
  return { tiny, words: words!, nodeid: entry.nodeid, fh: open.fh, unique };
}

/** The next process gets those again that were not answered. @returns what is in the file then. */
async function goOn({ tiny, words, nodeid, fh, unique }: Ended, answered: number): Promise<string> {
  const log = new MemoryLog();
  const left = replay({ words, discard: () => undefined })!;
  const restored = await recoverExport(tiny, left, { log, createBuffer: hostBuffer });
  const session = await restoreSession(restored, restored.sessions[0]!);
  await recoverRequests(restored, left, [session]);
  const holder = { hold: () => 1, drop: () => undefined };
  const journal = new Journal(restored.export, { memory: new PlainMemory(WORDS), holder, log });
  session.journal = journal.register(session, { connection: 0, socket: 0 });
  restored.finish();
  const client = new FuseClient(new Loopback(session));
  while (client.unique < unique + 2n * BigInt(answered)) client.encode(0, 0n, new Uint8Array(0));
  for (const text of TEXTS.slice(answered))
    assert.equal(await client.write(nodeid, fh, 0, Buffer.from(text)), text.length);
  return Buffer.from(await client.read(nodeid, fh, 0, 4096)).toString();
}

for (let done = 0; done <= TEXTS.length; done++) {
  test(`of appends that were gathered, ${done} were carried out: each is, once`, async () => {
    const ended = await end((submit) => {
      return (results, later) => submit(results, later);
    });
    const { children } = ended.tiny.root;
    const file = children.get('log')!;
    const part = [BEFORE, ...TEXTS.slice(0, done)].join('');
    file.data = Buffer.from(part);
    assert.equal(await goOn(ended, 0), [BEFORE, ...TEXTS].join(''));
  });
}

for (let answered = 2; answered <= TEXTS.length; answered++) {
  test(`of appends that were gathered one failed, and ${answered} were answered: the others are not repeated`, async () => {
    const failing = 1;
    const ended = await end((submit) => {
      return (results: Awaitable<number>[], later) => {
        const isLater = submit(results, later);
        results[failing] = -ENOSPC;
        return isLater;
      };
    }, answered);
    const file = ended.tiny.root.children.get('log')!;
    const kept = TEXTS.filter((_, i) => i !== failing);
    file.data = Buffer.from([BEFORE, ...kept].join(''));
    assert.equal(await goOn(ended, answered), [BEFORE, ...kept].join(''));
  });
}

interface Opened {
  readonly nodeid: bigint;
  readonly fh: bigint;
}

/** What may change the size of a file between two appends to it, and needs no handle of them. */
const RESIZINGS: Readonly<Record<string, (client: FuseClient, file: Opened) => Promise<unknown>>> = {
  WRITE: (client, { nodeid, fh }) => client.write(nodeid, fh, 100, Buffer.from('beyond')),
  SETATTR: (client, { nodeid }) => client.setattr(nodeid, { size: 3 }),
  FALLOCATE: (client, { nodeid, fh }) => client.fallocate(nodeid, fh, 0, 0, 200),
  COPY_FILE_RANGE: (client, { nodeid, fh }) => client.copyFileRange([nodeid, fh, 0], [nodeid, fh, 50], 9),
  'OPEN with O_TRUNC': (client, { nodeid }) => client.open(nodeid, 0o1001),
  'CREATE with O_TRUNC': (client) => client.create(ROOT, 'log', 0o644, 0o1101),
};

/** A guest that has a file open to append to it, and what is noted of its appends. */
async function appender(t: TestContext) {
  const memory = new PlainMemory(WORDS);
  const tiny = new TinyBackend();
  const running = await journaled(tiny, memory);
  const { client } = running.kept();
  await client.init();
  const { entry, open } = await client.create(ROOT, 'log', 0o644, 0o2002);
  const file = tiny.root.children.get('log')!;
  const noted: { readonly size: number; readonly is: number }[] = [];
  let asked = 0;
  const replaced: Partial<TinyBackend> = {
    create(...args: Parameters<TinyBackend['create']>) {
      file.data = new Uint8Array(0);
      return TinyBackend.prototype.create.apply(tiny, args);
    },
    getattr(...args: Parameters<TinyBackend['getattr']>) {
      asked += 1;
      return TinyBackend.prototype.getattr.apply(tiny, args);
    },
    write(...args: Parameters<TinyBackend['write']>) {
      const [intent] = replay(memory)!.sessions[0]!.intents;
      if (intent !== undefined) noted.push({ size: intent.size, is: file.data.length });
      return TinyBackend.prototype.write.apply(tiny, args);
    },
  };
  Object.assign(tiny, replaced);
  let now = 1;
  t.mock.method(performance, 'now', () => now);
  return {
    client,
    file,
    opened: { nodeid: entry.nodeid, fh: (await client.open(entry.nodeid, 2)).fh },
    append: () => client.write(entry.nodeid, open.fh, 0, Buffer.from('appended')),
    later: () => (now += 2),
    noted,
    asked: () => asked,
  };
}

for (const [name, resize] of Object.entries(RESIZINGS))
  test(`an append after ${name} is noted with the size that the file has then`, async (t) => {
    const { client, opened, append, noted } = await appender(t);
    for (let i = 0; i < 2; i++) await append();
    await resize(client, opened);
    for (let i = 0; i < 2; i++) await append();
    assert.equal(noted.length, 4);
    for (const { size, is } of noted) assert.equal(size, is);
  });

test('the size of a file is asked for once where appends follow each other, and later anew', async (t) => {
  const { file, append, later, noted, asked } = await appender(t);
  for (let i = 0; i < 5; i++) await append();
  assert.equal(asked(), 1);
  // A process of the host is not seen.
  file.data = new Uint8Array(1000);
  later();
  await append();
  assert.equal(asked(), 2);
  assert.deepEqual(noted.at(-1), { size: 1000, is: 1000 });
});
