import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, openSync, closeSync, ftruncateSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Fd, Mapping, memfd } from '../../core/system/index.js';

const TIB = 2 ** 40;
const child = fileURLToPath(new URL('memory-child.js', import.meta.url));
const asRoot = process.geteuid!() === 0 ? {} : { skip: 'needs root' };

function run(...args: string[]): Record<string, number> {
  const { status, signal, stderr, stdout } = spawnSync(process.execPath, [child, ...args], {
    timeout: 60_000,
    encoding: 'utf8',
  });
  assert.deepEqual([signal, status], [null, 0], stderr);
  return JSON.parse(stdout) as Record<string, number>;
}

test('a guest with a tebibyte of memory is connected in no time, and uses it without pauses', () => {
  const { connect, most, collections } = run('large') as {
    connect: number;
    most: number;
    collections: number;
  };
  assert.ok(connect < 5, `${connect} ms to connect`);
  // A newer V8 counts the guest's memory, and collects garbage at the first use of each gibibyte.
  if (Number.parseInt(process.versions.v8, 10) > 12) return;
  assert.ok(most < 40, `a pause of ${most} ms at a first use`);
  assert.ok(collections < 10, `${collections} full collections`);
});

test('memory with nothing behind it ends its mapping, not the process', asRoot, () => {
  for (const kind of ['tmpfs', 'truncated', 'huge']) {
    const { skipped, lost, zero, other, copied } = run(kind);
    if (skipped === 1) continue;
    assert.deepEqual([lost, zero, other], [1, 0, 7], kind);
    assert.equal(copied, -14, `${kind}: a system call fails with EFAULT`);
  }
});

test('only memory is mapped, and no other file system is asked', () => {
  const directory = mkdtempSync(join(tmpdir(), 'vfk-memory-'));
  const path = join(directory, 'file');
  writeFileSync(path, 'x'.repeat(8192));
  const paths = { [path]: false, '/proc/self/maps': false, '/dev/zero': true };
  for (const [name, mayFail] of Object.entries(paths)) {
    const fd = openSync(name, 'r') as Fd;
    if (!mayFail && !onTmpfs(name))
      assert.throws(() => Mapping.map(fd, 4096, 0), /cannot map the file: it lies on/);
    else assert.throws(() => Mapping.map(fd, 4096, 0));
    closeSync(fd);
  }
  rmSync(directory, { recursive: true });
  assert.throws(() => Mapping.map(9999 as Fd, 4096, 0), /it is not open/);
  using fd = memfd('large', TIB);
  ftruncateSync(fd.value, TIB);
  Mapping.map(fd.value, TIB, 0).unmap();
});

function onTmpfs(path: string): boolean {
  const { stdout } = spawnSync('stat', ['-f', '-c', '%T', path], { encoding: 'utf8' });
  return stdout.trim() === 'tmpfs';
}
