import { totalmem } from 'node:os';
import { getHeapStatistics } from 'node:v8';

/** Bytes that V8 lets the JavaScript heap grow to. */
export const heapLimit: number = getHeapStatistics().heap_size_limit;

/** Bytes of memory that this process may use. */
export function memoryLimit(): number {
  const constrained = process.constrainedMemory();
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}

/**
 * Bytes of content that one guest may take along to another host: a sixteenth of the memory, since
 * both hosts have the state more than once, and all states that come a quarter.
 */
export const MOST_CONTENT_ALONG = Math.min(2 ** 30, Math.floor(memoryLimit() / 16));

/**
 * Bytes of JSON in what comes from another host. It takes some forty times its bytes of the heap
 * where somebody makes it so, and whoever sends a guest may wish harm.
 */
export const MOST_FOREIGN_JSON = Math.floor(heapLimit / 40);
