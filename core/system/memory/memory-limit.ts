import { totalmem } from 'node:os';

/** Bytes of memory that this process may use. */
export function memoryLimit(): number {
  const constrained = process.constrainedMemory();
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}
