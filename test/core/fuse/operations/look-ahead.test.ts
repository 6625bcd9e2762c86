import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { FsError, type Entry } from '../../../../core/backend/index.js';
import { engine, type Engine, type Guest } from '../../../support/engine.js';
import { FuseError, ROOT, type Dirent } from '../../../support/fuse-client.js';
import { GatheringBackend } from '../../../support/gathering-backend.js';
import { TinyBackend, type TinyNode } from '../../../support/tiny-backend.js';
import { checkProperty } from '../../../support/random.js';

/** Lists names that look-ups don't find, or fail for. */
class Whimsical extends GatheringBackend {
  override lookup(parent: TinyNode, name: string): Entry<TinyNode> | undefined {
    if (name.startsWith('gone')) return undefined;
    if (name.startsWith('bad')) throw FsError.of('EIO');
    return super.lookup(parent, name);
  }
}

interface Mounted extends Guest, Engine {
  readonly tiny: Whimsical;
}

async function mounted(names: readonly string[], limits: { nodes?: number } = {}): Promise<Mounted> {
  const tiny = new Whimsical();
  tiny.gathersLookups = true;
  const started = await engine(tiny, { limits });
  const guest = started.guest();
  await guest.client.init();
  for (const name of names) await guest.client.forget((await guest.client.mkdir(ROOT, name)).nodeid);
  assert.equal(tiny.known.size, 0);
  return { ...started, ...guest, tiny };
}

/** Lists the root by pages of these sizes, as often as it takes, or until an error. */
async function list({ client }: Guest, sizes: readonly number[]): Promise<(Dirent | number)[]> {
  const seen: (Dirent | number)[] = [];
  const { fh } = await client.opendir(ROOT);
  try {
    for (let offset = 0n, page = 0; ; page++) {
      const entries = await client.readdirplus(ROOT, fh, offset, sizes[page % sizes.length]);
      if (entries.length === 0) return seen;
      seen.push(...entries);
      offset = entries.at(-1)!.off;
    }
  } catch (error) {
    assert.ok(error instanceof FuseError);
    seen.push(error.errno);
    return seen;
  } finally {
    await client.releasedir(ROOT, fh);
  }
}

const name = fc
  .tuple(fc.constantFrom('a', 'gone', 'bad', 'long'.repeat(30)), fc.nat(99))
  .map(([a, b]) => a + b);

test('a listing that looks names up together tells what one does that looks them up one by one', async (t) => {
  await checkProperty(
    t,
    fc.asyncProperty(
      fc.uniqueArray(name, { maxLength: 60 }),
      fc.array(fc.integer({ min: 300, max: 9000 }), { minLength: 1, maxLength: 3 }),
      fc.option(fc.integer({ min: 1, max: 40 }), { nil: undefined }),
      fc.boolean(),
      async (names, sizes, nodes, late) => {
        const outcomes: unknown[] = [];
        for (const isTogether of [false, true]) {
          const guest = await mounted(names, nodes === undefined ? {} : { nodes: nodes + 1 });
          const { tiny, client } = guest;
          tiny.gathersLookups = isTogether;
          tiny.givesPromises = late;
          const seen = await list(guest, sizes);
          const told = seen.filter((one) => typeof one === 'object');
          outcomes.push(
            seen.map((one) =>
              typeof one === 'number' ? one : [one.name, one.off, one.type, one.entry!.nodeid !== 0n],
            ),
          );
          const known = told.filter(({ entry }) => entry!.nodeid !== 0n);
          // A node that was looked up, but has no room in the reply, is forgotten when its look-up
          // ends.
          if (late) await sleep(5);
          assert.equal(tiny.known.size, known.length);
          await client.batchForget(known.map(({ entry }) => [entry!.nodeid, 1n]));
          assert.equal(tiny.known.size, 0);
          assert.deepEqual(guest.log.errors, []);
        }
        assert.deepEqual(outcomes[1], outcomes[0]);
      },
    ),
    { numRuns: 200 },
  );
});

test('up to 32 names are looked up together, fewer than 4 by themselves', async () => {
  const guest = await mounted(Array.from({ length: 75 }, (_, i) => `directory ${i}`));
  await list(guest, [100_000]);
  assert.deepEqual(guest.tiny.submitted, [32, 32, 11]);
  guest.tiny.submitted.length = 0;
  await list(guest, [500]);
  assert.deepEqual(guest.tiny.submitted, []);
});

test('a name that is not gathered for an error, or a batch that fails, harms no other name', async () => {
  const names = Array.from({ length: 12 }, (_, i) => `directory ${i}`);
  const told = (seen: readonly (Dirent | number)[]) =>
    seen.slice(2).map((one) => typeof one === 'object' && [one.name, one.entry!.nodeid]);

  const guest = await mounted(names);
  const expected = await list(guest, [100_000]);
  const { tiny } = guest;
  tiny.refusedName = 'directory 5';
  assert.deepEqual(told(await list(guest, [100_000])), told(expected));

  tiny.refusedName = undefined;
  tiny.failure = new Error('lost its way');
  const without = await list(guest, [100_000]);
  assert.deepEqual(
    told(without),
    names.map((one) => [one, 0n]),
  );
  assert.equal(guest.log.errors.length, 1);

  // It fails after it has given some results.
  tiny.failsAfter = 3;
  assert.deepEqual(told(await list(guest, [100_000])), told(without));
});

test('what was looked up for a guest that started anew meanwhile is known to nobody', async () => {
  const guest = await mounted(Array.from({ length: 20 }, (_, i) => `directory ${i}`));
  const { client, tiny } = guest;
  tiny.givesPromises = true;
  const { fh } = await client.opendir(ROOT);
  const listing = client.readdirplus(ROOT, fh, 0n, 8192);
  await client.init();
  await assert.rejects(listing, FuseError);
  await sleep(20);
  assert.equal(tiny.known.size, 0);
  assert.deepEqual(guest.log.errors, []);
});

test('the directory above a listed one is known to nobody where the guest started anew meanwhile', async () => {
  const tiny = new TinyBackend();
  let answer = (): void => {};
  const answered = new Promise<void>((resolve) => (answer = resolve));
  const parent = (): Promise<TinyNode> =>
    answered.then(() => {
      const above = tiny.root.children.get('above')!;
      tiny.known.add(above);
      return above;
    });
  const { guest, log } = await engine(Object.assign(tiny, { parent }));
  const { client } = guest();
  await client.init();
  const above = (await client.mkdir(ROOT, 'above')).nodeid;
  const { nodeid } = await client.mkdir(above, 'below');
  const { fh } = await client.opendir(nodeid);
  await client.forget(above);
  const listing = client.readdir(nodeid, fh, 0n);
  await client.init();
  answer();
  await assert.rejects(listing, FuseError);
  while (tiny.known.size > 0) await sleep(5);
  assert.deepEqual(log.errors, []);
});
