import assert from 'node:assert/strict';
import { type FuseClient, ROOT } from './fuse-client.js';

/**
 * Has a guest make directories in the root, with several requests under way at any time.
 * @returns what ends that, and says how many it has made: each one that it has asked for.
 */
export function guestAtWork(fuse: FuseClient): () => Promise<number> {
  const over = new AbortController();
  let [sent, served] = [0, 0];
  const makeDirectories = async (): Promise<void> => {
    while (!over.signal.aborted) {
      await fuse.mkdir(ROOT, `${sent++}`);
      served += 1;
    }
  };
  const work = Promise.all(Array.from({ length: 8 }, makeDirectories));
  return async () => {
    over.abort();
    await work;
    assert.ok(served > 0 && served === sent);
    return served;
  };
}
