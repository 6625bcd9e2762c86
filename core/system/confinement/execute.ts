import type { Fd } from '../descriptors/fd.js';
import { libc, result } from '../calls/libc.js';
import { native } from '../calls/libc-functions.js';
import { NativeMemory } from '../memory/native-memory.js';

const execve = libc<(path: number, argv: number, environment: number) => number>('execve', 'int', [
  'uintptr_t',
  'uintptr_t',
  'uintptr_t',
]);

const F_SETFD = 2;

/**
 * Replaces this process's program, execve(2): same process id, one thread, open descriptors closed
 * except 0 to 2 and `keep`. What confines the calling thread confines all threads of the new
 * program.
 * @returns only on failure, minus the errno.
 */
export function execute(
  path: string,
  argv: readonly (string | Uint8Array)[],
  environment: Readonly<NodeJS.ProcessEnv>,
  keep: readonly number[],
): number {
  for (const fd of [0, 1, 2, ...keep]) {
    const code = result(native.fcntl(fd as Fd, F_SETFD, 0));
    if (code < 0 && fd > 2) return code;
  }
  const settings = Object.entries(environment).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  const texts = [path, ...argv, ...settings].map((text) => Buffer.concat([Buffer.from(text), Buffer.of(0)]));
  const pointers = (texts.length + 2) * 8;
  const memory = NativeMemory.allocate(pointers + texts.reduce((sum, text) => sum + text.length, 0));
  let at = pointers;
  const addresses = texts.map((text) => {
    memory.u8.set(text, at);
    at += text.length;
    return memory.address + at - text.length;
  });
  // Two lists of pointers. Each ends with a null pointer: fresh memory is zeroed.
  const [program, ...rest] = addresses as [number, ...number[]];
  rest.forEach((address, index) => {
    const slot = index < argv.length ? index : index + 1;
    memory.u32[slot * 2] = address >>> 0;
    memory.u32[slot * 2 + 1] = Math.floor(address / 2 ** 32);
  });
  const code = result(execve(program, memory.address, memory.address + (argv.length + 1) * 8));
  memory.free();
  return code;
}
