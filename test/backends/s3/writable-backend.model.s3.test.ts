import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { cpSync } from 'node:fs';
import { after, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { parallel } from '../../../backends/s3/client/concurrency.js';
import type { OpenFile } from '../../../backends/s3/write/files.js';
import type { Fault } from './proxy.js';
import { Proxy } from './proxy.js';
import { context, Mount, pattern, removeFolders, temporaryFolder, TestBucket } from './support.js';
import { Random, withSeed } from '../../support/random.js';

/*
 * Random schedules of operations, with faults at every request, and crashes in the middle of
 * operations. What was acknowledged must be there after the next start. SCHEDULES sets how many
 * (default 25), `--seed` where to begin, JOBS how many go on at once (they wait most of the time).
 *
 * A crash is simulated as exactly as one process allows: at one instant the cache folder is copied,
 * as kill -9 would leave it, and the network is cut; the next mount works on the copy.
 */

const SCHEDULES = Number(process.env['SCHEDULES'] ?? 25);
const JOBS = Number(process.env['JOBS'] ?? 16);
const NAMES = ['a', 'b', 'c', 'd'];
const faults: Fault[] = ['slow-down', 'internal-error', 'reset-before', 'reset-after', 'short-body', 'delay'];

/** Files and their content: one possible state of the bucket. */
type World = ReadonlyMap<string, Buffer>;

/** A buffer that no content equals. */
const absent = Buffer.from(randomUUID());

function withFile(world: World, name: string, content: Buffer | undefined): World {
  const next = new Map(world);
  if (content === undefined) next.delete(name);
  else next.set(name, content);
  return next;
}

function overwritten(old: Buffer | undefined, at: number, bytes: Buffer): Buffer {
  const next = Buffer.alloc(Math.max(old?.length ?? 0, at + bytes.length));
  old?.copy(next);
  bytes.copy(next, at);
  return next;
}

function resized(old: Buffer | undefined, size: number): Buffer {
  const next = Buffer.alloc(size);
  old?.copy(next);
  return next;
}

function describeWorld(world: World): string {
  const digest = (bytes: Buffer): string => createHash('sha1').update(bytes).digest('hex').slice(0, 8);
  return JSON.stringify(
    [...world]
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, bytes]) => [name, bytes.length, digest(bytes)]),
  );
}

/** One schedule: mounts, operations and crashes on one prefix. */
class Schedule {
  readonly #random: Random;
  readonly #bucket: TestBucket;
  readonly #prefix: string;
  readonly #trace: string[] = [];
  readonly #dying: Promise<unknown>[] = [];
  #worlds: World[] = [new Map()];
  #folder = '';
  #crashed = false;

  constructor(bucket: TestBucket, seed: number) {
    this.#bucket = bucket;
    this.#random = new Random(seed);
    this.#prefix = `s${seed}`;
  }

  async run(): Promise<void> {
    this.#folder = await temporaryFolder();
    try {
      for (let round = 0; round < 2; round++) {
        await this.#round(2 + this.#random.below(6));
        await this.#verify();
      }
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      throw new Error(`${this.#prefix}: ${this.#trace.join('\n')}`, { cause: error });
    }
    await Promise.all(this.#dying);
  }

  /** Mounts behind a bad network, does a few operations, and crashes in the last. */
  async #round(operations: number): Promise<void> {
    const proxy = await Proxy.start(this.#bucket.endpoint);
    const options = { operationTimeout: 4, requestTimeout: 3, partSize: '5m', diskCache: 0 };
    const mount = await Mount.open(this.#bucket, {
      ...options,
      endpoint: proxy.endpoint,
      prefix: this.#prefix,
      cacheDir: this.#folder,
      // Files go up at once, or wait while more happens to them and to their names.
      writebackDelay: this.#random.pick([0, 0.05, 600]),
      metadataTtl: this.#random.pick([0, 5]),
    });
    proxy.fault = () => (this.#random.chance(20) ? this.#random.pick(faults) : undefined);
    this.#crashed = false;
    for (let i = 0; i < operations; i++) await this.#operation(mount);
    const last = this.#operation(mount);
    await sleep(this.#random.below(40));
    this.#crashed = true;
    const next = await temporaryFolder();
    cpSync(this.#folder, next, { recursive: true, filter: (path) => !path.endsWith('.sock') });
    this.#trace.push('crash');
    this.#dying.push(proxy.close(), mount.backend.mounted.abandon());
    await last;
    await proxy.settled();
    this.#folder = next;
  }

  /**
   * Does one step and says how it changes the world. Only what was acknowledged before the crash
   * must be there; what was under way, or failed, may have happened or not.
   */
  async #step<T>(
    what: string,
    change: (world: World) => World[],
    step: () => Promise<T>,
  ): Promise<T | undefined> {
    if (this.#crashed) return undefined;
    const before = this.#worlds;
    const after = before.flatMap(change);
    this.#worlds = unique([...before, ...after]);
    const at = this.#trace.push(`${what}: under way`) - 1;
    try {
      const result = await step();
      if (this.#crashed) return undefined;
      this.#worlds = unique(before.flatMap((world) => change(world).slice(0, 1)));
      this.#trace[at] = what;
      return result;
    } catch (error) {
      this.#trace[at] = `${what}: ${error instanceof Error ? error.message : String(error)}`;
      return undefined;
    }
  }

  async #operation(mount: Mount): Promise<void> {
    const random = this.#random;
    const name = random.pick(NAMES);
    const kind = random.below(12);
    if (kind < 4) return this.#write(mount, name);
    if (kind === 4) return this.#read(mount, name);
    if (kind < 8) {
      // As an editor saves: a new file, renamed over the old one.
      await this.#write(mount, 'tmp');
      return this.#rename(mount, 'tmp', name);
    }
    if (kind < 10) return this.#rename(mount, name, random.pick(NAMES));
    if (kind === 10) {
      await this.#step(
        `unlink ${name}`,
        (world) => [withFile(world, name, undefined)],
        () => mount.backend.unlink(mount.root, name, context).catch(ignoreMissing),
      );
    } else
      await this.#step(
        'syncfs',
        (world) => [world],
        () => mount.backend.syncfs(context),
      );
  }

  async #rename(mount: Mount, name: string, target: string): Promise<void> {
    const move = (world: World): World[] => {
      const content = world.get(name);
      if (content === undefined || target === name) return [world];
      // A rename that failed may leave the second state. Its caller was told.
      return [withFile(withFile(world, name, undefined), target, content), withFile(world, target, content)];
    };
    await this.#step(`rename ${name} ${target}`, move, () =>
      mount.backend.rename(mount.root, name, mount.root, target, 0, context).catch(ignoreMissing),
    );
  }

  async #write(mount: Mount, name: string): Promise<void> {
    const random = this.#random;
    const flags = random.chance(30) ? 0o302 : 0o102;
    const created = (world: World): World[] => [
      world.has(name) ? world : withFile(world, name, Buffer.alloc(0)),
    ];
    const file = await this.#step(`create ${name} ${flags.toString(8)}`, created, async () => {
      try {
        const file = await mount.create(name, flags);
        mount.backend.key(file.node);
        return file;
      } catch (error) {
        if (error instanceof Error && error.message === 'EEXIST' && flags === 0o302)
          return mount.openFile(name);
        throw error;
      }
    });
    if (file === undefined) return;
    const steps = 1 + random.below(3);
    for (let i = 0; i < steps; i++) await this.#change(mount, name, file);
    if (random.chance(50))
      await this.#step(
        `fsync ${name}`,
        (world) => [world],
        () => mount.fsync(file),
      );
    if (this.#crashed) return;
    await mount.release(file).catch(() => undefined);
    if (random.chance(50)) mount.backend.forget(file.node);
  }

  /** Reads a file. Its content must be that of one of the possible worlds. A read may also fail. */
  async #read(mount: Mount, name: string): Promise<void> {
    if (this.#crashed) return;
    let content: Buffer | undefined;
    try {
      const node = await mount.node(name);
      if (node !== undefined) {
        // As the engine does with each node that it takes into use.
        mount.backend.key(node);
        content = await mount.content(name);
        if (this.#random.chance(50)) mount.backend.forget(node);
      }
    } catch (error) {
      this.#trace.push(`read ${name}: ${String(error)}`);
      return;
    }
    if (this.#crashed) return;
    this.#trace.push(`read ${name}: ${content?.length ?? 'nothing'}`);
    assert.ok(
      this.#worlds.some((world) => content?.equals(world.get(name) ?? absent) ?? !world.has(name)),
      `${this.#prefix}: read of ${name} not in any of\n${this.#worlds.map(describeWorld).join('\n')}\nafter\n${this.#trace.join('\n')}`,
    );
  }

  async #change(mount: Mount, name: string, file: OpenFile): Promise<void> {
    const random = this.#random;
    const large = random.chance(4);
    const at = random.below(large ? 12_000_000 : 30_000);
    if (random.chance(20)) {
      await this.#step(
        `truncate ${name} ${at}`,
        (world) => [withFile(world, name, resized(world.get(name), at))],
        () => mount.backend.setattr(file.node, { size: at }, file, context),
      );
      return;
    }
    const bytes = pattern(1 + random.below(large ? 900_000 : 20_000), random.below(1000));
    await this.#step(
      `write ${name} ${at}+${bytes.length}`,
      (world) => [withFile(world, name, overwritten(world.get(name), at, bytes))],
      () => mount.write(file, at, bytes),
    );
  }

  /** Starts again on what the crash left, brings everything into the bucket, and compares. */
  async #verify(): Promise<void> {
    const mount = await Mount.open(this.#bucket, {
      prefix: this.#prefix,
      cacheDir: this.#folder,
      partSize: '5m',
      diskCache: 0,
    });
    const flushed = await mount.backend.syncfs(context).then(
      () => 'flushed',
      (error: unknown) => `${String(error)} ${mount.log.lines.join(' ')}`,
    );
    const found = new Map<string, Buffer>();
    for (const key of await this.#bucket.keys(`${this.#prefix}/`)) {
      // A fault may keep a start from deleting its probe. A later start deletes it.
      if (key.includes('/.virtiofs-kit/probe-')) continue;
      found.set(key.slice(this.#prefix.length + 1), await this.#bucket.get(key));
    }
    const conflicts = mount.backend.mounted.services.metrics.snapshot()['conflicts'];
    await mount.close();
    const shown = describeWorld(found);
    const possible = this.#worlds.map(describeWorld);
    assert.ok(
      possible.includes(shown) && conflicts === 0 && flushed === 'flushed',
      `${this.#prefix}: ${flushed}, ${conflicts} conflicts, found ${shown}, not one of\n${possible.join('\n')}\nafter\n${this.#trace.join('\n')}`,
    );
    this.#worlds = [found];
    this.#trace.push('verified');
  }
}

function unique(worlds: readonly World[]): World[] {
  return [...new Map(worlds.map((world) => [describeWorld(world), world])).values()];
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof Error) || error.message !== 'ENOENT') throw error;
}

describe('random schedules with faults at every request and crashes', () => {
  after(removeFolders);

  it(`what was acknowledged is in the bucket or in the journal: ${SCHEDULES} schedules`, async (t) => {
    const bucket = await TestBucket.create();
    await withSeed(t, 1, async (first) => {
      const seeds = Array.from({ length: SCHEDULES }, (_, i) => first + i);
      await parallel(seeds, JOBS, (seed) => new Schedule(bucket, seed).run());
    });
  });
});
