import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { acceleratorOf, type Gathered } from '../../../../core/backend/accelerator.js';
import {
  type Attributes,
  type Awaitable,
  Errno,
  FileType,
  FsError,
  OpenFlags,
  readOnly,
} from '../../../../core/backend/index.js';
import { hostBuffer } from '../../../../core/memory/index.js';
import type { Node } from '../../../../backends/passthrough/nodes/nodes.js';
import { root, type Share, serve } from '../harness.js';
import { checkProperty } from '../../../support/random.js';

type Outcome = Gathered<Node>;

function share(t: TestContext, where: string, given: Record<string, unknown> = {}): Share {
  const served = serve(where, given);
  t.after(() => served.close());
  return served;
}

/** Carries out what was gathered. */
function submitted(served: Share): Promise<Outcome[]> {
  const results: Awaitable<Outcome>[] = [];
  assert.equal(served.accelerator.submit(results), false);
  return Promise.all(results);
}

/** Copies the result of a method, in the form that a batch gives. */
function outcome(call: () => Awaitable<Outcome>): Outcome {
  try {
    return copy(call() as Outcome);
  } catch (error) {
    assert.ok(error instanceof FsError);
    return -error.errno;
  }
}

function copy(result: Outcome): Outcome {
  if (typeof result !== 'object') return result;
  return 'node' in result
    ? { node: result.node, attributes: { ...result.attributes } }
    : { ...(result as Attributes) };
}

function lookup({ backend }: Share, parent: Node, name: string): Node {
  const found = backend.lookup(parent, name, root);
  assert.ok(found !== undefined && !(found instanceof Promise));
  return found.node;
}

const NAMES = [
  'file',
  'link',
  'directory',
  'missing',
  'twin',
  'é',
  '\udc80',
  'x'.repeat(85),
  'y'.repeat(255),
];

/** More than birth times lag behind the clock. */
const OLD_MS = 60;

/** Has a young file be looked at, and then be replaced. @returns undefined if it was not young. */
function lookedAtYoung(served: Share, other: Node): Outcome | undefined {
  const { accelerator, backend, directory, node: top } = served;
  const path = join(directory, 'name');
  fs.rmSync(path, { force: true });
  const opened = backend.open(other, OpenFlags.READ_ONLY, root);
  assert.ok(!(opened instanceof Promise));
  const begun = performance.now();
  fs.writeFileSync(path, '');
  assert.ok(accelerator.gatherLookup(top, 'name', root));
  // Makes the calls so far, since the descriptor could be another file's afterwards.
  backend.release(other, opened.file);
  const isYoung = performance.now() - begun < OLD_MS / 4;
  fs.unlinkSync(path);
  execFileSync('mkfifo', [path]);
  const results: Awaitable<Outcome>[] = [];
  accelerator.submit(results);
  return isYoung ? (results[0] as Outcome) : undefined;
}

for (const where of [tmpdir(), '/dev/shm']) {
  test(`a file that is replaced after it was looked at is not opened as what it was (${where})`, (t) => {
    const served = share(t, where);
    fs.writeFileSync(join(served.directory, 'other'), '');
    const other = lookup(served, served.node, 'other');
    let found = lookedAtYoung(served, other);
    while (found === undefined) found = lookedAtYoung(served, other);
    assert.ok(typeof found === 'object' && 'node' in found);
    const { attributes, node } = found;
    assert.equal(attributes.mode & FileType.MASK, FileType.FIFO);
    assert.throws(() => served.backend.open(node, OpenFlags.READ_ONLY, root), FsError);
  });
}

for (const where of [tmpdir(), '/dev/shm']) {
  test(`new files of one directory after another are entered as what they are (${where})`, async (t) => {
    const served = share(t, where);
    const { accelerator, backend, directory, node: top } = served;
    const folders = ['a', 'b', 'c'];
    const names = Array.from({ length: 20 }, (_, i) => `new ${i}`);
    for (const folder of folders) {
      fs.mkdirSync(join(directory, folder));
      for (const name of names) fs.writeFileSync(join(directory, folder, name), `${folder} ${name}`);
    }
    await sleep(OLD_MS);
    for (const folder of folders) {
      const parent = lookup(served, top, folder);
      for (const name of [...names, 'missing']) assert.ok(accelerator.gatherLookup(parent, name, root));
      const found = await submitted(served);
      assert.equal(found.pop(), undefined);
      for (const [i, name] of names.entries()) {
        const { node, attributes } = found[i] as { node: Node; attributes: Attributes };
        assert.equal(attributes.ino, fs.statSync(join(directory, folder, name)).ino);
        assert.equal(lookup(served, parent, name), node);
        const { file } = await backend.open(node, OpenFlags.READ_ONLY, root);
        const buffer = hostBuffer(64);
        const count = (await backend.read(node, file, buffer, 0, root)) as number;
        assert.equal(Buffer.from(buffer.segments[0]!).toString('latin1', 0, count), `${folder} ${name}`);
        buffer.close();
        await backend.release(node, file);
      }
    }
  });

  test(`an old file that is replaced after it was looked at is gone for who knows it (${where})`, async (t) => {
    const served = share(t, where);
    const { accelerator, backend, directory, node: top } = served;
    for (const name of ['other', 'name']) fs.writeFileSync(join(directory, name), name);
    await sleep(OLD_MS);
    const other = lookup(served, top, 'other');
    const opened = await backend.open(other, OpenFlags.READ_ONLY, root);
    assert.ok(accelerator.gatherLookup(top, 'name', root));
    // Makes the calls so far, since the descriptor could be another file's afterwards.
    await backend.release(other, opened.file);
    fs.unlinkSync(join(directory, 'name'));
    fs.writeFileSync(join(directory, 'name'), 'another');
    const [found] = await submitted(served);
    assert.equal((found as { attributes: Attributes }).attributes.size, 'name'.length);
    const { node } = found as { node: Node };
    assert.throws(
      () => backend.open(node, OpenFlags.READ_ONLY, root),
      (error) => error instanceof FsError && error.errno === Errno.ESTALE,
    );
    assert.notEqual(lookup(served, top, 'name'), node);
  });
}

const requests = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('lookup' as const), which: fc.nat(3), name: fc.constantFrom(...NAMES) }),
    fc.record({ kind: fc.constantFrom('node', 'handle', 'read'), which: fc.nat(9), name: fc.constant('') }),
  ),
  { minLength: 1, maxLength: 40 },
);

for (const where of [tmpdir(), '/dev/shm']) {
  for (const given of [{}, { cachedDescriptors: 16 }, { inodeFileHandles: 'never' }]) {
    test(`stats that were gathered find what they find one by one (${where}, ${JSON.stringify(given)})`, async (t) => {
      const served = share(t, where, given);
      const { accelerator, backend, directory, node: top } = served;
      fs.mkdirSync(join(directory, 'directory'));
      fs.writeFileSync(join(directory, 'file'), 'content');
      fs.linkSync(join(directory, 'file'), join(directory, 'twin'));
      fs.symlinkSync('file', join(directory, 'link'));
      for (const name of ['é', 'y'.repeat(255)]) fs.mkdirSync(join(directory, name));
      const file = lookup(served, top, 'file');
      const parents = [top, lookup(served, top, 'directory'), file, lookup(served, top, 'link')];
      const { file: open } = await backend.open(file, OpenFlags.READ_ONLY, root);
      const buffer = hostBuffer(4096);
      // No read changes its time of access any more.
      await backend.read(file, open, buffer, 0, root);
      await checkProperty(
        t,
        fc.asyncProperty(requests, async (all) => {
          const expected: Outcome[] = [];
          for (const { kind, which, name } of all) {
            const node = parents[which % parents.length]!;
            if (kind === 'lookup') {
              if (accelerator.gatherLookup(node, name, root)) {
                expected.push(outcome(() => backend.lookup(node, name, root)));
              } else outcome(() => backend.lookup(node, name, root));
            } else if (kind === 'read') {
              if (accelerator.gatherRead(file, open, buffer, which, root))
                expected.push(7 - Math.min(which, 7));
            } else {
              const [one, through] = kind === 'handle' ? [file, open] : [node, undefined];
              if (accelerator.gatherGetattr(one, through, root)) {
                expected.push(outcome(() => backend.getattr(one, through, root)));
              } else outcome(() => backend.getattr(one, through, root));
            }
          }
          if (expected.length > 0) assert.deepEqual((await submitted(served)).map(copy), expected);
        }),
      );
      buffer.close();
      await backend.release(file, open);
    });
  }
}

test('a look at a descriptor is made before that is closed', async (t) => {
  const served = share(t, '/dev/shm', { cachedDescriptors: 16 });
  const { accelerator, backend, directory, node: top } = served;
  const names = Array.from({ length: 200 }, (_, i) => `f${i}`);
  for (const name of names) fs.writeFileSync(join(directory, name), name.padEnd(Number(name.slice(1)) + 10));
  const nodes = names.map((name) => lookup(served, top, name));
  // Each file has a descriptor only for a while. Then another file gets its place, and its number.
  for (let round = 0; round < 5; round++) {
    for (let first = 0; first < nodes.length; first += 20) {
      const gathered: number[] = [];
      for (let i = first; i < first + 20; i++) {
        const size = i + 10;
        if (accelerator.gatherGetattr(nodes[i]!, undefined, root)) gathered.push(size);
        const attributes = backend.getattr(nodes[i]!, undefined, root) as Attributes;
        assert.equal(attributes.size, size);
        if (accelerator.gatherGetattr(nodes[i]!, undefined, root)) gathered.push(size);
      }
      if (gathered.length === 0) continue;
      const sizes = (await submitted(served)).map((result) => (result as Attributes).size);
      assert.deepEqual(sizes, gathered);
    }
  }
});

test('names that were gathered are entered as nodes once, also where nobody knew them', async (t) => {
  const served = share(t, '/var/tmp', { cachedDescriptors: 16 });
  const { accelerator, directory, node: top } = served;
  const names = Array.from({ length: 30 }, (_, i) => `new ${i}`);
  for (const name of names) fs.writeFileSync(join(directory, name), '');
  fs.linkSync(join(directory, 'new 0'), join(directory, 'again'));
  for (const name of [...names, 'again']) assert.ok(accelerator.gatherLookup(top, name, root));
  const found = (await submitted(served)) as { node: Node }[];
  assert.equal(new Set(found.map(({ node }) => node)).size, 30);
  assert.equal(found[30]!.node, found[0]!.node);
  for (const [i, name] of names.entries()) assert.equal(lookup(served, top, name), found[i]!.node);
});

test('what is removed before a batch is carried out is missing, or known by what it was', async (t) => {
  const served = share(t, '/dev/shm');
  const { accelerator, backend, directory, node: top } = served;
  for (const name of ['a', 'b']) fs.writeFileSync(join(directory, name), name);
  const a = lookup(served, top, 'a');
  await backend.getattr(a, undefined, root);
  assert.ok(accelerator.gatherLookup(top, 'a', root));
  assert.ok(accelerator.gatherLookup(top, 'b', root));
  assert.ok(accelerator.gatherGetattr(top, undefined, root));
  for (const name of ['a', 'b']) fs.rmSync(join(directory, name));
  fs.rmdirSync(directory);
  const [first, second, own] = await submitted(served);
  assert.deepEqual([first, second], [undefined, undefined]);
  assert.equal((own as Attributes).nlink, 0);
  fs.mkdirSync(directory);
});

test('names that are none are refused, and long ones looked up alone', (t) => {
  const served = share(t, tmpdir());
  const { accelerator, node: top } = served;
  for (const name of ['', '.', '..', 'a/b']) {
    assert.throws(
      () => accelerator.gatherLookup(top, name, root),
      (error) => error instanceof FsError && error.errno === Errno.EINVAL,
    );
  }
  assert.equal(accelerator.gatherLookup(top, 'z'.repeat(86), root), false);
});

test('a batch has room for 64 stat calls', async (t) => {
  const served = share(t, tmpdir());
  const { accelerator, node: top } = served;
  const taken = Array.from({ length: 70 }, () => accelerator.gatherGetattr(top, undefined, root));
  assert.equal(taken.filter((isTaken) => isTaken).length, 64);
  assert.equal((await submitted(served)).length, 64);
});

test('a share that is read-only gathers stat calls', async (t) => {
  const served = share(t, tmpdir());
  const view = acceleratorOf(readOnly(served.backend));
  assert.equal(view?.gatherLookup?.(served.node, 'missing', root), true);
  assert.equal(view?.gatherGetattr?.(served.node, undefined, root), true);
  const results: Awaitable<Outcome>[] = [];
  view?.submit?.(results);
  const [missing, own] = await Promise.all(results);
  assert.equal(missing, undefined);
  assert.equal((own as Attributes).ino, Number(fs.statSync(served.directory).ino));
});
