import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Order } from './faulty-mount.js';

/** A file system on this host that fails as it is told, and the process that serves it. */
export interface FaultyMount {
  readonly directory: string;
  readonly process: ChildProcess;
  order(order: Order): Promise<void>;
}

/** Mounts one until the end of the test. */
export async function faultyMount(t: TestContext): Promise<FaultyMount> {
  const child = fork(fileURLToPath(new URL('faulty-mount.js', import.meta.url)));
  t.after(async () => {
    child.kill('SIGCONT');
    child.disconnect();
    await once(child, 'exit');
  });
  const [directory] = (await once(child, 'message')) as [string];
  return {
    directory,
    process: child,
    async order(order) {
      child.send(order);
      await once(child, 'message');
    },
  };
}
