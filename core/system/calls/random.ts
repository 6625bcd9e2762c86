import { NativeMemory } from '../memory/native-memory.js';
import { libc, result, SystemError } from './libc.js';

const getrandom = libc<(address: number, length: number, flags: number) => number>('getrandom', 'intptr_t', [
  'uintptr_t',
  'size_t',
  'uint',
]);

/**
 * Bytes that nobody foresees, of the kernel: getrandom(2). Node's own come with all of its
 * cryptography, whose loading is a part of what a daemon's start takes.
 * @param length 1 to 256: so many come at once, whatever the signals.
 * @throws SystemError
 */
export function randomBytes(length: number): Buffer {
  const memory = NativeMemory.allocate(length);
  try {
    const count = result(getrandom(memory.address, length, 0));
    if (count < 0) throw new SystemError('getrandom', -count);
    return Buffer.from(memory.u8.subarray(0, length));
  } finally {
    memory.free();
  }
}
