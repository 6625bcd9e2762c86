import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { FileType, OpenFlags } from '../../../../core/backend/index.js';
import { NodeTable } from '../../../../core/state/index.js';
import type { Node } from '../../../../backends/passthrough/nodes/nodes.js';
import { withPlainNumbers } from '../../../support/plain-numbers.js';
import { outcome, root, serve } from '../harness.js';
import { host } from '../host-calls.js';
import { entriesOf } from '../../../support/listings.js';

const FILES = 300_000;
const PER_DIRECTORY = 1000;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function memory(): number {
  collect();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}

const where = ['/dev/shm', tmpdir()].find((path) => fs.existsSync(path))!;

test('a guest that knows 300,000 files costs fewer than 1,000 descriptors, and 500 bytes for each', async (t) => {
  const share = serve(where);
  t.after(() => share.close());
  const { backend, node, directory } = share;
  for (let d = 0; d < FILES / PER_DIRECTORY; d++) {
    fs.mkdirSync(join(directory, `d${d}`));
    for (let f = 0; f < PER_DIRECTORY; f++) {
      host.mknod(join(directory, `d${d}`, `file-${f}`), FileType.REGULAR | 0o644, 0);
    }
  }
  const table = new NodeTable(backend, node, 2 ** 20, assert.ifError, true);
  const before = memory();
  let most = 0;
  const known: Node[] = [];
  for (const entry of entriesOf(await backend.readdir(node, root))) {
    const found = (await backend.lookup(node, entry.name, root))!.node;
    table.reference(table.intern(found));
    for (const { name } of entriesOf(await backend.readdir(found, root))) {
      const file = (await backend.lookup(found, name, root))!.node;
      table.reference(table.intern(file));
      if (table.size % 100 === 0) known.push(file);
    }
    most = Math.max(most, fs.readdirSync('/proc/self/fd').length);
  }
  const nodes = FILES + FILES / PER_DIRECTORY + 1;
  assert.equal(table.size, nodes);
  const each = (memory() - before) / nodes;
  t.diagnostic(`${Math.round(each)} bytes a node, ${most} descriptors at most`);
  assert.ok(each <= 500, `${each} bytes a node`);
  assert.ok(most < 1000, `${most} descriptors`);
  // All of them can still be used, most by their handles.
  for (const file of known) {
    assert.equal((await backend.getattr(file, undefined, root)).nlink, 1);
    const opened = await backend.open(file, OpenFlags.READ_WRITE, root);
    await backend.release(file, opened.file);
  }
  assert.ok(fs.readdirSync('/proc/self/fd').length < 1000);
  for (let slot = 1; slot < table.slotEnd; slot++) withPlainNumbers(table).release(slot);
  assert.equal(table.size, 1);
});

test('without file handles, files beyond the descriptors that may be used give ENFILE, and come back', async (t) => {
  const share = serve(where, { inodeFileHandles: 'never', descriptors: 64 });
  t.after(() => share.close());
  const { backend, node, directory, log } = share;
  for (let f = 0; f < 100; f++) fs.writeFileSync(join(directory, `f${f}`), '');
  const known: Node[] = [];
  const outcomes = new Set<string>();
  for (let f = 0; f < 100; f++) {
    outcomes.add(
      await outcome(async () => {
        known.push((await backend.lookup(node, `f${f}`, root))!.node);
      }),
    );
  }
  assert.deepEqual([...outcomes], ['ok', 'ENFILE']);
  assert.equal(known.length, 63);
  assert.equal(log.lines.filter((line) => line.startsWith('no more files')).length, 1);
  for (const file of known) backend.forget(file);
  assert.notEqual(await backend.lookup(node, 'f99', root), undefined);
});
