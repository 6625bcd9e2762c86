import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';

import { describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { type Backend, wrapEach } from '../../core/backend/index.js';
import { cases, checkBackend } from '../../core/contract/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import { cached, encrypted, logged, quota, routed, throttled, watched } from '../../core/wrappers/index.js';
import { MemfsVolume } from '../../backends/memfs/index.js';
import { keepingLog, temporaryDirectory } from '../support/host-mount.js';

const registry = new BackendRegistry();
const KEY = Buffer.alloc(32, 'key');

/** Rules that a wrapper has no methods for. */
const MOVED = [/copied/, /hole/i];

interface Wrapping {
  readonly wrap: (inner: Backend) => Backend;
  readonly lacks: readonly RegExp[];
  /** What stays in the inner backend when all files have gone. */
  readonly leaves?: readonly string[];
  /** Where in the whole tree the inner backend is. */
  readonly directory?: string;
  /** It is tried over memory alone: others that are tried do the same. */
  readonly isPlain?: boolean;
}

const wrappings: Readonly<Record<string, Wrapping>> = {
  logged: { wrap: (inner) => logged(inner, keepingLog()), lacks: [], isPlain: true },
  throttled: {
    wrap: (inner) => throttled(inner, { bytesPerSecond: 2 ** 40, operationsPerSecond: 1e9 }),
    lacks: MOVED,
    isPlain: true,
  },
  quota: {
    wrap: (inner) => quota(inner, { bytes: 2 ** 40, inodes: 100_000 }),
    lacks: [/space is set aside/],
    isPlain: true,
  },
  cached: { wrap: (inner) => cached(inner, { bytes: 2 ** 20, blockBytes: 4096 }), lacks: [] },
  'cached, with room for nothing': {
    wrap: (inner) => cached(inner, { bytes: 0 }),
    lacks: [],
    isPlain: true,
  },
  encrypted: {
    wrap: (inner) => encrypted(inner, { key: KEY }),
    lacks: [...MOVED, /64 KiB/],
    leaves: ['virtiofs-kit.key'],
  },
  'routed, as the root': {
    wrap: (inner) => routed({ mounts: { '/': inner }, rules: [{ path: '/hidden/away', access: 'hidden' }] }),
    lacks: [],
    isPlain: true,
  },
  'routed, below directories that lead there': {
    wrap: (inner) => routed({ mounts: { '/a/b': inner } }),
    lacks: [],
    directory: '/a/b',
    isPlain: true,
  },
  'routed, where another directory is seen': {
    wrap: () =>
      routed({
        mounts: { '/': MemfsVolume.fromJSON({ '/real': null }).backend as Backend },
        rules: [{ path: '/alias', access: 'redirected', to: '/real' }],
      }),
    lacks: [],
    directory: '/alias',
    isPlain: true,
  },
  watched: { wrap: (inner) => watched(inner), lacks: [] },
  'all of them': {
    wrap: (inner) =>
      cached(
        logged(encrypted(quota(routed({ mounts: { '/': inner } }), {}), { key: KEY }), keepingLog()),
        {},
      ),
    lacks: [...MOVED, /64 KiB/],
    leaves: ['virtiofs-kit.key'],
  },
};

async function check(
  t: TestContext,
  create: () => Backend | Promise<Backend>,
  { lacks, directory }: Wrapping,
): Promise<void> {
  const log = keepingLog();
  const { results } = await checkBackend({ create, log, ...(directory !== undefined && { directory }) });
  const wrong = results.filter(({ outcome }) => outcome === 'failed');
  assert.deepEqual(
    wrong.map(({ name, reason, causes = [] }) => [`${name}: ${reason}`, ...causes]),
    [],
  );
  for (const { name, outcome, reason } of results)
    if (outcome === 'skipped')
      assert.ok(
        lacks.some((lack) => lack.test(name)),
        `${name}: ${reason}`,
      );
  assert.equal(results.length, cases.length);
  assert.deepEqual(log.lines, []);
  t.diagnostic(`${results.filter(({ outcome }) => outcome === 'passed').length} rules`);
}

/** Every variant, for a change of the wrappers; else a choice of them. */
const ALL = process.env['VIRTIOFS_KIT_WRAPPERS'] === 'all';

function memory(): Promise<Backend> {
  return registry.create({ type: 'memfs' }, { log: keepingLog() });
}

/** Answers every request in another turn of the event loop, in the order of the requests. */
async function later(): Promise<Backend> {
  return wrapEach(await memory(), async (_method, next) => {
    await setImmediate();
    return next();
  });
}

for (const [name, wrapping] of Object.entries(wrappings)) {
  describe(`the contract is kept by ${name}`, () => {
    it('over memory', (t) => check(t, async () => wrapping.wrap(await memory()), wrapping));

    it('over memory that answers later', { skip: !ALL && wrapping.isPlain === true }, (t) =>
      check(t, async () => wrapping.wrap(await later()), wrapping),
    );

    it('over a directory, in which nothing stays', { skip: !ALL && wrapping.isPlain === true }, async (t) => {
      await using host = await temporaryDirectory('/dev/shm');
      const spec = { type: 'passthrough', sharedDir: host.path };
      const create = async () => wrapping.wrap(await registry.create(spec, { log: keepingLog() }));
      // ext4 has room for extended attributes of one block for each file.
      const lacks = [...wrapping.lacks, /64 KiB/, /space is set aside/, /temporary file/];
      await check(t, create, { ...wrapping, lacks });
      assert.deepEqual(readdirSync(host.path), wrapping.leaves ?? []);
    });
  });
}
