import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, test, type TestContext } from 'node:test';
import { accelerate, acceleratorOf, type Accelerator } from '../../../core/backend/accelerator.js';
import {
  backendMethods,
  nodeBytesOf,
  readOnly,
  UsageError,
  wrap,
  wrapEach,
  type Backend,
  type BackendMethod,
  type GuestBuffer,
} from '../../../core/backend/index.js';
import { ROOT_SLOT } from '../../../core/state/index.js';
import { BackendRegistry, serve } from '../../../core/plugins/index.js';
import { logging } from '../../contract/own-wrappers/logging.js';
import { perSecond, throttling } from '../../contract/own-wrappers/throttling.js';
import { engine, MemoryLog } from '../../support/engine.js';
import { ROOT } from '../../support/fuse-client.js';
import { ThreadedServer } from '../../support/threaded-server.js';
import { TinyBackend, type TinyFile, type TinyNode } from '../../support/tiny-backend.js';

const WATCHED = ['read', 'write', 'lookup', 'getattr'] as const;
type Watched = (typeof WATCHED)[number];
type Seen = Record<Watched, number>;

function none(): Seen {
  return { read: 0, write: 0, lookup: 0, getattr: 0 };
}

function isWatched(name: PropertyKey): name is Watched {
  return WATCHED.some((watched) => watched === name);
}

/** The four methods of a backend, each counted. */
function counted(inner: Backend, seen: Seen): Pick<Backend, Watched> {
  return {
    lookup: (...args) => ((seen.lookup += 1), inner.lookup(...args)),
    getattr: (...args) => ((seen.getattr += 1), inner.getattr(...args)),
    read: (...args) => ((seen.read += 1), inner.read!(...args)),
    write: (...args) => ((seen.write += 1), inner.write!(...args)),
  };
}

/** A class that delegates, as one writes it by hand. */
class Delegating implements Backend {
  readonly #inner: Backend;
  readonly #seen: Seen;

  constructor(inner: Backend, seen: Seen) {
    this.#inner = inner;
    this.#seen = seen;
    // Methods that it does not count are the inner backend's.
    for (const name of backendMethods) {
      const method = inner[name];
      if (method !== undefined && !(name in this)) Object.assign(this, { [name]: method.bind(inner) });
    }
  }

  mount(...args: Parameters<Backend['mount']>) {
    return this.#inner.mount(...args);
  }
  lookup(...args: Parameters<Backend['lookup']>) {
    this.#seen.lookup += 1;
    return this.#inner.lookup(...args);
  }
  getattr(...args: Parameters<Backend['getattr']>) {
    this.#seen.getattr += 1;
    return this.#inner.getattr(...args);
  }
  read(...args: Parameters<NonNullable<Backend['read']>>) {
    this.#seen.read += 1;
    return this.#inner.read!(...args);
  }
  write(...args: Parameters<NonNullable<Backend['write']>>) {
    this.#seen.write += 1;
    return this.#inner.write!(...args);
  }
}

/** Every way in which people compose objects. */
const compositions: readonly (readonly [string, (inner: Backend, seen: Seen) => Backend])[] = [
  [
    'wrap',
    (inner, seen) =>
      wrap(inner, {
        read: (next, ...args) => ((seen.read += 1), next(...args)),
        write: (next, ...args) => ((seen.write += 1), next(...args)),
        lookup: (next, ...args) => ((seen.lookup += 1), next(...args)),
        getattr: (next, ...args) => ((seen.getattr += 1), next(...args)),
      }),
  ],
  [
    'wrapEach',
    (inner, seen) =>
      wrapEach(inner, (method, next) => {
        if (isWatched(method)) seen[method] += 1;
        return next();
      }),
  ],
  ['a spread copy', (inner, seen) => ({ ...inner, ...counted(inner, seen) })],
  [
    'a Proxy',
    (inner, seen) => {
      const own = counted(inner, seen);
      return new Proxy(inner, {
        get: (target, name): unknown => (isWatched(name) ? own[name] : Reflect.get(target, name)),
      });
    },
  ],
  [
    'an object with it as prototype',
    (inner, seen) => Object.assign(Object.create(inner) as Backend, counted(inner, seen)),
  ],
  ['a class that delegates', (inner, seen) => new Delegating(inner, seen)],
  [
    'methods replaced in the object itself',
    (inner, seen) => Object.assign(inner, counted({ ...inner }, seen)),
  ],
  [
    'a logging wrapper of an author',
    (inner, seen) =>
      logging(inner, (line) => {
        const [method] = line.split(' ');
        if (isWatched(method!)) seen[method] += 1;
      }),
  ],
  ['a wrapper of a wrapper', (inner, seen) => readOnlyExceptCounting(wrap(inner, {}), seen)],
];

function readOnlyExceptCounting(inner: Backend, seen: Seen): Backend {
  return wrap({ ...inner, ...counted(inner, seen) }, {});
}

const FILES = 40;
const BLOCK_BYTES = 4096;
const LARGE_BYTES = 64 * 1024;

/** A directory of files, served by passthrough. */
async function share(t: TestContext, ioThreads: number): Promise<Backend> {
  const sharedDir = mkdtempSync('/dev/shm/vfk-wrap-');
  t.after(() => rmSync(sharedDir, { recursive: true }));
  for (let i = 0; i < FILES; i++) writeFileSync(join(sharedDir, `file ${i}`), '');
  writeFileSync(join(sharedDir, 'data'), Buffer.alloc(16 * LARGE_BYTES, 'data'));
  return new BackendRegistry().create(
    { type: 'passthrough', sharedDir, ioThreads },
    { log: new MemoryLog() },
  );
}

/**
 * What a busy guest sends, many requests in sight at once.
 * @returns how many of each kind it sent.
 */
async function load(backend: Backend): Promise<Seen> {
  const running = await engine(backend);
  const { client, loopback, session } = running.guest();
  const sent = none();
  await client.init();
  const { nodeid } = await client.lookup(ROOT, 'data');
  sent.lookup += 1;
  const { fh } = await client.open(nodeid, 2);
  const kinds: Record<Watched, (i: number) => Promise<unknown>> = {
    read: (i) => client.read(nodeid, fh, i * BLOCK_BYTES, BLOCK_BYTES),
    write: (i) => client.write(nodeid, fh, i * BLOCK_BYTES, Buffer.alloc(BLOCK_BYTES, i)),
    lookup: (i) => client.lookup(ROOT, `file ${i}`),
    getattr: () => client.getattr(nodeid),
  };
  const together = async (kind: Watched, count: number, call = kinds[kind]): Promise<void> => {
    sent[kind] += count;
    const all = await loopback.together(Array.from({ length: count }, (_, i) => () => call(i)));
    for (const result of all) assert.equal(result.status, 'fulfilled');
  };
  for (let round = 0; round < 3; round++) {
    for (const kind of WATCHED) await together(kind, FILES);
    await together('read', 12, (i) => client.read(nodeid, fh, i * LARGE_BYTES, LARGE_BYTES));
  }
  // A listing has its names looked up.
  const directory = await client.opendir(ROOT);
  const listed: string[] = [];
  for (let offset = 0n; ;) {
    const entries = await client.readdirplus(ROOT, directory.fh, offset, 8192);
    if (entries.length === 0) break;
    listed.push(...entries.map(({ name }) => name));
    offset = entries.at(-1)!.off;
  }
  sent.lookup += listed.filter((name) => name !== '.' && name !== '..').length;
  await client.releasedir(ROOT, directory.fh);
  await client.release(nodeid, fh);
  await session.close();
  await running.export.close();
  assert.deepEqual(running.log.errors, []);
  return sent;
}

for (const ioThreads of [0, 2]) {
  describe(`over passthrough, which gathers, with ${ioThreads} threads for reads`, () => {
    it('requests of this load are gathered where nothing is wrapped', async (t) => {
      const backend = await share(t, ioThreads);
      const own = acceleratorOf(backend);
      assert.ok(own !== undefined);
      const taken: Record<string, number> = {};
      const counting: Accelerator = { ...own };
      for (const name of ['gatherRead', 'gatherWrite', 'gatherLookup', 'gatherGetattr'] as const) {
        const gather = own[name] as (...args: unknown[]) => boolean;
        const count = (...args: unknown[]): boolean => {
          const isTaken = gather(...args);
          if (isTaken) taken[name] = (taken[name] ?? 0) + 1;
          return isTaken;
        };
        Object.assign(counting, { [name]: count });
      }
      await load(accelerate(backend, counting));
      for (const name of ['gatherRead', 'gatherWrite', 'gatherLookup', 'gatherGetattr']) {
        assert.ok((taken[name] ?? 0) > FILES, `${name} took ${taken[name]}`);
      }
    });

    for (const [name, compose] of compositions) {
      it(`${name} sees every request`, async (t) => {
        const seen = none();
        const sent = await load(compose(await share(t, ioThreads), seen));
        assert.deepEqual(seen, sent);
      });
    }

    it('a throttling wrapper of an author has every read and write wait', async (t) => {
      const pace = perSecond(2 ** 40);
      let turns = 0;
      const throttled = throttling(await share(t, ioThreads), (bytes, context) => {
        turns += 1;
        return pace(bytes, context);
      });
      const { read, write } = await load(throttled);
      assert.equal(turns, read + write);
    });
  });
}

/** Requests by the queue that a thread serves. @returns how many of each kind. */
async function loadThread(t: TestContext, server: ThreadedServer): Promise<Seen> {
  for (let i = 0; i < 4; i++) writeFileSync(server.path(`file ${i}`), Buffer.alloc(BLOCK_BYTES));
  const { fuse } = await server.connect(t);
  fuse.caller = { ...fuse.caller, queue: 2 };
  const sent = none();
  for (let i = 0; i < 100; i++) {
    const { nodeid } = await fuse.lookup(ROOT, `file ${i % 4}`);
    const { fh } = await fuse.open(nodeid, 2);
    await fuse.getattr(nodeid);
    await fuse.write(nodeid, fh, 0, Buffer.from('x'));
    for (let again = 0; again < 3; again++) await fuse.read(nodeid, fh, 0, BLOCK_BYTES);
    await fuse.release(nodeid, fh);
    sent.lookup += 1;
    sent.getattr += 1;
    sent.write += 1;
    sent.read += 3;
  }
  return sent;
}

const countAll =
  (seen: Seen) =>
  (backend: Backend): Backend =>
    wrapEach(backend, (method, next) => {
      if (isWatched(method)) seen[method] += 1;
      return next();
    });

test('a wrapper sees every request that comes by a queue thread', async (t) => {
  const seen = none();
  const sent = await loadThread(t, await ThreadedServer.start(t, { view: countAll(seen) }));
  assert.deepEqual(seen, sent);
});

test('a thread serves a share that is wrapped elsewhere by itself', async (t) => {
  const view = (backend: Backend): Backend => wrap(backend, { unlink: (next, ...args) => next(...args) });
  const server = await ThreadedServer.start(t, { view });
  await loadThread(t, server);
  const { reads, writes } = server.counts();
  assert.ok(reads > 100 && writes > 0, `a thread served ${reads} reads and ${writes} writes`);
});

test('a subclass is not passed by, whose base gives itself an accelerator', () => {
  class Base extends TinyBackend {
    constructor() {
      super();
      accelerate(this, { gatherRead: () => true }, Base.prototype);
    }
  }
  class Mine extends Base {
    override read(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): number {
      return super.read(node, file, buffer, offset);
    }
  }
  assert.ok(acceleratorOf(new Base()) !== undefined);
  assert.equal(acceleratorOf(new Mine()), undefined);
});

function methodsOf(backend: Backend): BackendMethod[] {
  return backendMethods.filter((name) => backend[name] !== undefined);
}

describe('wrap', () => {
  it('offers the methods of the inner backend, called on it', () => {
    class Private extends TinyBackend {
      readonly #name = 'private';
      override key(): string {
        return this.#name;
      }
      get cache() {
        return { entryTimeout: this.#name.length };
      }
    }
    const inner = new Private();
    const wrapped = wrap(inner, {});
    assert.deepEqual(methodsOf(wrapped), methodsOf(inner));
    const { key } = wrapped;
    assert.equal(key!(inner.root), 'private');
    assert.deepEqual(wrapped.cache, { entryTimeout: 7 });
    assert.equal(wrapped.semantics, undefined);
  });

  it('gives an override the inner method, and leaves it out where there is none', async () => {
    const inner = new TinyBackend();
    const bare: Backend<TinyNode, TinyFile> = wrap(inner, {}, { without: ['readlink', 'statfs'] });
    const wrapped = wrap(
      bare,
      {
        readlink: () => 'never',
        getattr: (next, node, file, context) => ({
          ...(next(node, file, context) as object),
          mode: 0o100000,
        }),
      },
      { add: { statfs: () => ({ blocks: 7 }) } },
    );
    assert.equal(wrapped.readlink, undefined);
    assert.deepEqual(await wrapped.statfs!(inner.root, {} as never), { blocks: 7 });
    assert.equal((await wrapped.getattr(inner.root, undefined, {} as never)).mode, 0o100000);
  });

  it('makes cache policy and semantics of the inner ones, as they are then', () => {
    let entryTimeout = 1;
    const inner = Object.defineProperty(new TinyBackend() as Backend, 'cache', {
      get: () => ({ entryTimeout }),
    });
    const wrapped = wrap(
      inner,
      {},
      {
        cache: (policy) => ({ ...policy, attributeTimeout: 5 }),
        semantics: (own) => ({ ...own, posixAcl: true }),
      },
    );
    entryTimeout = 2;
    assert.deepEqual(wrapped.cache, { entryTimeout: 2, attributeTimeout: 5 });
    assert.deepEqual(wrapped.semantics, { posixAcl: true });
  });

  const all = wrap(
    new TinyBackend() as Backend,
    {},
    {
      add: {
        copyFileRange: () => 0,
        fallocate: () => {},
        lseek: () => 0,
        ioctl: () => ({ result: 0 }),
      },
    },
  );
  const moving = (backend: Backend): BackendMethod[] =>
    (['copyFileRange', 'fallocate', 'lseek', 'ioctl'] as const).filter((name) => backend[name] !== undefined);

  it('offers no way around a read or write that is overridden', () => {
    assert.deepEqual(moving(wrap(all, {})), ['copyFileRange', 'fallocate', 'lseek', 'ioctl']);
    assert.deepEqual(moving(wrap(all, { read: (next, ...args) => next(...args) })), ['fallocate']);
    assert.deepEqual(moving(wrap(all, { write: (next, ...args) => next(...args) })), ['lseek']);
    assert.deepEqual(moving(wrap(all, {}, { without: ['write'] })), ['lseek']);
    const keeping = wrap(all, {
      read: (next, ...args) => next(...args),
      write: (next, ...args) => next(...args),
      copyFileRange: (next, ...args) => next(...args),
    });
    assert.deepEqual(moving(keeping), ['copyFileRange']);
  });

  it('keeps an accelerator whose methods stay, and no part of it otherwise', async (t) => {
    const inner = await share(t, 2);
    const own = acceleratorOf(inner)!;
    const parts = (backend: Backend): string[] =>
      Object.entries(acceleratorOf(backend) ?? {})
        .flatMap(([name, part]) => (part ? [name] : []))
        .sort();
    assert.deepEqual(
      parts(wrap(inner, { unlink: (next, ...args) => next(...args) })),
      Object.keys(own).sort(),
    );
    assert.deepEqual(
      parts(readOnly(inner)),
      Object.keys(own)
        // It overrides `open`, by which the next engine takes open files over.
        .filter((name) => !['gatherWrite', 'held', 'adoptNode', 'adoptFile'].includes(name))
        .sort(),
    );
    const traces = ['retrace', 'trace', 'tracesHelp', 'watchTraces'];
    const recovery = ['descriptor', 'elsewhere', 'migration', 'recover', ...traces];
    const always = [...recovery, 'descriptors'];
    assert.deepEqual(
      parts(wrap(inner, { read: (next, ...args) => next(...args) })),
      [...always, 'slots'].sort(),
    );
    assert.deepEqual(
      parts(wrap(inner, { getattr: (next, ...args) => next(...args) })),
      ['copyDomain', ...always, 'slots'].sort(),
    );
    assert.deepEqual(
      parts(wrap(inner, { lookup: (next, ...args) => next(...args) })),
      ['copyDomain', ...always].sort(),
    );
    assert.deepEqual(
      parts(wrap(inner, { resolve: (next, ...args) => next(...args) })),
      Object.keys(own)
        .filter((name) => name !== 'slots' && !recovery.includes(name))
        .sort(),
    );
    const mkdir = wrap(inner, { mkdir: (next, ...args) => next(...args) });
    assert.deepEqual(
      parts(mkdir),
      Object.keys(own)
        .filter((name) => name !== 'slots')
        .sort(),
    );
  });

  it('has no thread write to what it makes read-only', async (t) => {
    const inner = await share(t, 0);
    const view = readOnly(inner);
    const running = await engine(view);
    const root = running.export.nodes.node(ROOT_SLOT);
    const context = { signal: new AbortController().signal } as never;
    const { node } = (await view.lookup(root, 'data', context))!;
    const { file } = await inner.open!(node, 2, context);
    assert.equal(acceleratorOf(inner)!.backing!(node, file)?.writes, true);
    assert.equal(acceleratorOf(view)!.backing!(node, file)?.writes, false);
    await view.release!(node, file);
    await running.export.close();
  });
});

describe('a copy that has lost the methods of its class', () => {
  const lost = { ...new TinyBackend() } as unknown as Backend;
  const refusal = (error: unknown): boolean =>
    error instanceof UsageError &&
    error.message.startsWith('the backend has no mount, no lookup, no getattr:') &&
    error.message.includes('wrap(instance');

  it('is refused by an export, and by wrap', async () => {
    await assert.rejects(engine(lost), refusal);
    assert.throws(() => wrap(lost, {}), refusal);
    assert.throws(() => readOnly(lost), refusal);
  });

  it('is refused by serve', async (t) => {
    const folder = mkdtempSync('/tmp/vfk-lost-');
    t.after(() => rmSync(folder, { recursive: true }));
    const served = serve({
      socket: join(folder, 'socket'),
      tag: 'lost',
      backend: lost,
      log: new MemoryLog(),
    });
    await assert.rejects(served, refusal);
  });
});

test('what a node takes is added up, whatever wraps what', () => {
  const plain = new TinyBackend() as Backend;
  const said = wrap(Object.assign(new TinyBackend(), { nodeBytes: 1000 }) as Backend, {});
  assert.equal(nodeBytesOf(plain), 256);
  assert.equal(nodeBytesOf(said), 1000);
  assert.equal(nodeBytesOf(readOnly(wrap(said, {}, { nodeBytes: 70 }))), 1070);
  assert.equal(nodeBytesOf(wrapEach(wrap(plain, {}, { nodeBytes: 5 }), (_method, next) => next())), 261);
});
