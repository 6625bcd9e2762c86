import { fstatSync } from 'node:fs';
import { check, libc, NativeMemory, result } from '../../core/system/index.js';

const getrlimit = libc<(resource: number, limit: number) => number>('getrlimit', 'int', ['int', 'uintptr_t']);
const setrlimit = libc<(resource: number, limit: number) => number>('setrlimit', 'int', ['int', 'uintptr_t']);

const RLIMIT_NOFILE = 7;

/** Runs something while this process may open only `spare` further descriptors. */
export async function withFewDescriptors<T>(spare: number, action: () => Promise<T>): Promise<T> {
  const limit = NativeMemory.allocate(16);
  check(result(getrlimit(RLIMIT_NOFILE, limit.address)), 'getrlimit');
  const [soft, softHigh] = limit.u32;
  let bound = 0;
  for (let free = 0; free < spare; bound++) if (!isOpen(bound)) free += 1;
  limit.u32.set([bound, 0]);
  check(result(setrlimit(RLIMIT_NOFILE, limit.address)), 'setrlimit');
  try {
    return await action();
  } finally {
    limit.u32.set([soft!, softHigh!]);
    check(result(setrlimit(RLIMIT_NOFILE, limit.address)), 'setrlimit');
    limit.free();
  }
}

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}
