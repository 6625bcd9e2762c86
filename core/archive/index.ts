/**
 * Archive formats. There is one: tar (`tar.ts`). Memfs is filled from and saved to tar archives,
 * and overlay exports its changes as one.
 */
export * from './tar.js';
