import koffi from 'koffi';

/*
 * V8 counts the length of every ArrayBuffer as memory that garbage collection could free. It does
 * so for a guest's memory, too: with 64 GiB of it V8 collected for more than a second, and freed
 * nothing. So the length of such a buffer is subtracted from V8's count at once. V8 subtracts it
 * again when the buffer is collected. Up to version 12 (Node 22) that is harmless, because V8 looks
 * at differences only. A newer V8 ends the process where its count would fall below zero.
 */
const LAST_VERSION = 12;

/** Changes V8's count of bytes that are allocated outside its heap. */
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
    // This program does not export V8's functions.
    return undefined;
  }
}

/** Whether {@link leaveUncounted} has an effect here. */
export const canBeUncounted = adjust !== undefined;

/** Subtracts a buffer over memory that is not V8's own from V8's count. */
export function leaveUncounted(buffer: ArrayBuffer): void {
  adjust?.(-buffer.byteLength);
}
