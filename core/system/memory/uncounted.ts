import koffi from 'koffi';

/*
 * V8 takes the length of every ArrayBuffer for memory that a collection of garbage could give back,
 * that of a guest's memory too: 64 GiB of it had V8 collect for more than a second, in vain. So
 * what such a buffer was counted with is taken back at once. V8 takes it off a second time when the
 * buffer is collected. That is harmless as long as V8 looks at differences only, up to version 12
 * (Node 22); a newer one ends the process where its count would fall below zero.
 */
const LAST_VERSION = 12;

/** Changes what V8 believes to be allocated outside its heap, by bytes. */
const adjust = find();

function find(): ((bytes: number) => void) | undefined {
  if (Number.parseInt(process.versions.v8, 10) > LAST_VERSION) return undefined;
  try {
    const program = koffi.load(null);
    const current = program.func('_ZN2v87Isolate10GetCurrentEv', 'uintptr_t', []) as () => number;
    const change = program.func('_ZN2v87Isolate37AdjustAmountOfExternalAllocatedMemoryEl', 'int64_t', [
      'uintptr_t',
      'int64_t',
    ]) as (isolate: number, bytes: number) => number;
    const isolate = current();
    return isolate === 0 ? undefined : (bytes) => void change(isolate, bytes);
  } catch {
    // A program whose V8 has no such function for others.
    return undefined;
  }
}

/** Whether V8 can be had not to count a buffer. */
export const canBeUncounted = adjust !== undefined;

/** Has V8 not count a buffer over memory that is not its own. */
export function leaveUncounted(buffer: ArrayBuffer): void {
  adjust?.(-buffer.byteLength);
}
