import assert from 'node:assert/strict';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { BackendRegistry, Daemon } from '../../core/plugins/index.js';
import { decodeSaved, encodeSaved } from '../../core/state/saved-form.js';
import { MemoryLog } from '../support/engine.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, ROOT } from '../support/fuse-client.js';
import { loadState, saveState, stopQueues } from '../support/migration.js';
import { checkProperty, Random } from '../support/random.js';
import { mutate } from '../support/saved-states.js';
import { fuseTransport, openDescriptors, temporaryFolder } from '../support/vhost-user.js';

/** Mutated states that are loaded of each kind; VIRTIOFS_KIT_FUZZ sets another number. */
const STATES = Number(process.env['VIRTIOFS_KIT_FUZZ'] ?? 300);
/** States in each of fast-check's runs. */
const PER_RUN = 100;
const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

/** What a state may have logged. Anything else is a fault of this program. */
const EXPECTED =
  /^live migration: a guest cannot be taken over$|^a guest has come without|^a file that a guest had open/;

async function serve(t: TestContext, backend: { type: string; [option: string]: unknown }) {
  const socket = join(temporaryFolder(t), 'socket');
  const log = new MemoryLog();
  const exports = [{ socket, backend, locks: 'shared' as const, migrationOnError: 'guest-error' as const }];
  const daemon = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  t.after(() => daemon.close());
  return { log, connect: () => FrontEnd.connect(socket) };
}

/** A guest with files, a directory stream and locks, and some without a name. */
async function busyState(frontEnd: FrontEnd): Promise<Buffer> {
  const fuse = new FuseClient(fuseTransport(frontEnd));
  await fuse.init();
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
  await fuse.setlk(entry.nodeid, open.fh, 7n, LOCK);
  await fuse.create(ROOT, 'removed');
  await fuse.unlink(ROOT, 'removed');
  const directory = await fuse.mkdir(ROOT, 'directory');
  await fuse.create(directory.nodeid, 'inner');
  const listing = await fuse.opendir(ROOT);
  await fuse.readdir(ROOT, listing.fh, 0n, 64);
  await stopQueues(frontEnd);
  return (await saveState(frontEnd))!;
}

for (const type of ['memfs', 'passthrough']) {
  test(`hostile states are refused, or harm nobody but their guest, on ${type}`, async (t) => {
    const sharedDir = join(temporaryFolder(t), 'shared');
    mkdirSync(sharedDir);
    writeFileSync(join(sharedDir, '..', 'secret'), 'secret');
    symlinkSync('..', join(sharedDir, 'up'));
    const backend = type === 'memfs' ? { type, size: 2 ** 20, inodes: 64 } : { type, sharedDir };
    const from = await serve(t, backend);
    const first = await from.connect();
    const state = await busyState(first);
    first.close();
    const { saved, backendState } = decodeSaved(state);
    const to = await serve(t, backend);
    const honest = type === 'memfs' ? undefined : await to.connect();
    const fuse = honest && new FuseClient(fuseTransport(honest));
    await fuse?.init();
    const before = openDescriptors();
    let [accepted, refused] = [0, 0];
    const property = fc.asyncProperty(fc.integer(), async (seed) => {
      const random = new Random(seed);
      for (let i = 0; i < PER_RUN; i++) {
        let mutated: Uint8Array;
        if (random.below(2) === 0) {
          const bytes = Buffer.from(backendState);
          for (let flips = random.below(4); flips > 0 && bytes.length > 0; flips--)
            bytes[random.below(bytes.length)] = random.below(256);
          const length = random.below(3) === 0 ? random.below(bytes.length + 1) : bytes.length;
          mutated = encodeSaved(saved, bytes.subarray(0, length));
        } else {
          const copy = structuredClone(saved);
          for (let changes = 1 + random.below(3); changes > 0; changes--) mutate(copy, random);
          mutated = encodeSaved(copy, backendState);
        }
        const frontEnd = await to.connect();
        await stopQueues(frontEnd);
        if (await loadState(frontEnd, mutated)) accepted += 1;
        else refused += 1;
        frontEnd.close();
        await frontEnd.ended;
        if (fuse !== undefined) await fuse.getattr(ROOT);
      }
    });
    await checkProperty(t, property, { numRuns: Math.ceil(STATES / PER_RUN) });
    t.diagnostic(`${accepted} accepted, ${refused} refused`);
    assert.ok(accepted > 0 && refused > 0);
    const odd = to.log.lines.filter(
      ({ level, message }) => (level === 'warn' || level === 'error') && !EXPECTED.test(message),
    );
    assert.deepEqual(odd, []);
    while (openDescriptors() > before) await sleep(5);
    honest?.close();
    // A whole guest comes at last, to what all the others have left.
    const last = await to.connect();
    await stopQueues(last);
    const taken = await loadState(last, state);
    assert.equal(taken, true, JSON.stringify(to.log.lines.findLast(({ level }) => level === 'warn')?.fields));
    last.close();
  });
}
