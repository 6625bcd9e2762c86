import { execFileSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { AddressSpace } from '../../core/memory/index.js';
import { type Fd, libc, Mapping, memfd, OwnedFd, result } from '../../core/system/index.js';

/* Uses memory as a hostile front-end gives it. Prints what came of it. */

const kind = process.argv[2];
if (kind === 'large') await large();
else await lose();

/** Memory of 1 TiB: how long it takes to take it, and to use a byte in each gibibyte. */
async function large(): Promise<void> {
  const size = 2 ** 40;
  let collections = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const { kind: major } = (entry as unknown as { detail: { kind: number } }).detail;
      if (major === constants.NODE_PERFORMANCE_GC_MAJOR) collections += 1;
    }
  }).observe({ entryTypes: ['gc'] });
  // What a daemon has on its heap.
  const heap = Array.from({ length: 200_000 }, (_, index) => ({ index, list: [index] }));
  using fd = memfd('guest', size);
  // The first mapping of a process loads what is needed.
  using small = memfd('guest', 4096);
  Mapping.map(small.value, 4096, 0).unmap();
  const space = new AddressSpace();
  let connect = Infinity;
  let mapping!: Mapping;
  for (let round = 0; round < 5; round++) {
    if (round > 0) for (const before of space.clear()) before.unmap();
    const start = performance.now();
    mapping = Mapping.map(fd.value, size, 0);
    space.add(mapping, 0, 0);
    connect = Math.min(connect, performance.now() - start);
  }
  let most = 0;
  for (let at = 0; at < size; at += 2 ** 30) {
    const before = performance.now();
    space.windowAt(mapping.address + at).u8[0] = 1;
    most = Math.max(most, performance.now() - before);
    if (at % 2 ** 35 === 0) await sleep(0);
  }
  await sleep(50);
  space.clear();
  mapping.unmap();
  await sleep(1500);
  console.log(JSON.stringify({ connect, most, collections, heap: heap.length }));
}

/** Memory with nothing behind it, beside memory that is as it should be. */
async function lose(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'vfk-memory-'));
  const size = 2 ** 22;
  let fd: OwnedFd | undefined;
  let mounted = false;
  try {
    if (kind === 'tmpfs') {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory]);
      mounted = true;
      fd = new OwnedFd(openSync(join(directory, 'memory'), 'w+') as Fd);
      ftruncateSync(fd.value, size);
      execFileSync('dd', ['if=/dev/zero', `of=${join(directory, 'rest')}`, 'bs=4096', 'count=100'], {
        stdio: 'ignore',
        // It ends with an error, because the file system is full.
        timeout: 10_000,
      });
    }
  } catch (error) {
    if (!mounted) throw error;
  }
  if (kind === 'truncated') {
    fd = new OwnedFd(openSync(join('/dev/shm', `vfk-${process.pid}`), 'w+') as Fd);
    rmSync(join('/dev/shm', `vfk-${process.pid}`));
    ftruncateSync(fd.value, size);
  }
  if (kind === 'huge') {
    const create = libc<(name: string, flags: number) => number>('memfd_create', 'int', ['str', 'uint']);
    fd = new OwnedFd(result(create('huge', 1 | 4)) as Fd);
    if (fd.value < 0) {
      console.log(JSON.stringify({ skipped: 1 }));
      return;
    }
    ftruncateSync(fd.value, size);
  }
  using good = memfd('good', 4096);
  const other = Mapping.map(good.value, 4096, 0);
  other.windowAt(other.address).u8[0] = 7;
  let lost = 0;
  let mapping: Mapping;
  try {
    mapping = Mapping.map(fd!.value, size, 0, () => (lost += 1));
  } catch (error) {
    // No huge pages are reserved. This is noticed before a page is touched.
    if (kind !== 'huge') throw error;
    console.log(JSON.stringify({ lost: 1, zero: 0, other: 7, copied: -14 }));
    return;
  }
  if (kind === 'truncated') ftruncateSync(fd!.value, 0);
  const pread = libc<(fd: number, at: number, count: number, offset: number) => number>('pread', 'intptr_t', [
    'int',
    'uintptr_t',
    'size_t',
    'int64_t',
  ]);
  const zeros = openSync('/proc/self/exe', 'r');
  const last = mapping.address + size - 4096;
  const copied = result(pread(zeros, last, 4096, 0));
  closeSync(zeros);
  const bytes = mapping.windowAt(last).u8;
  const at = last - mapping.windowAt(last).start;
  const zero = bytes[at]!;
  bytes[at] = 1;
  await sleep(50);
  console.log(JSON.stringify({ lost, zero, other: other.windowAt(other.address).u8[0], copied }));
  mapping.unmap();
  fd!.close();
  if (mounted) execFileSync('umount', ['-l', directory]);
  rmSync(directory, { recursive: true, force: true });
}
