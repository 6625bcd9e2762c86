import { workerData } from 'node:worker_threads';
import { libc, NativeMemory } from '../../core/system/index.js';

/*
 * The program of a thread that does what a hostile front-end can do to an eventfd which it shares
 * with a daemon. It makes the eventfd block, fills its counter, and takes signals away.
 */

const { fd, word, fill } = workerData as { fd: number; word: SharedArrayBuffer; fill: boolean };
const state = new Int32Array(word);
const fcntl = libc<(fd: number, command: number, argument: number) => number>('fcntl', 'int', [
  'int',
  'int',
  'int',
]);
const transfer = (name: 'read' | 'write') =>
  libc<(fd: number, at: number, count: number) => number>(name, 'intptr_t', ['int', 'uintptr_t', 'size_t']);
const write = transfer('write');
const read = transfer('read');
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;
/** The most that an eventfd can count to, and room for what is read. */
const numbers = NativeMemory.allocate(16);
numbers.u32.set([0xfffffffe, 0xffffffff]);
const FULL = numbers.address;
const SINK = numbers.address + 8;

Atomics.store(state, 0, 1);
while (Atomics.load(state, 0) === 1) {
  for (let i = 0; i < 100; i++) {
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (fill) write(fd, FULL, 8);
    else read(fd, SINK, 8);
    fcntl(fd, F_SETFL, 0);
    for (let spin = 0; spin < 50; spin++) Atomics.load(state, 0);
  }
  Atomics.add(state, 1, 100);
}
