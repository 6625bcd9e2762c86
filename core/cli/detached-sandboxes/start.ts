import { UsageError } from '../../backend/index.js';
import type { Sandbox } from '../../sandbox/index.js';
import { goOnInBackground, tellReady } from '../serving/background.js';
import { aborted } from '../serving/signals.js';
import { SandboxHolder } from './holder.js';
import { openLog, sandboxNames } from './places.js';

/**
 * Starts this program again, in the background, to hold a sandbox. Returns when that is up.
 * @throws UsageError with what it said if it does not come up, or if the name is taken.
 */
export async function startHolder(name: string): Promise<void> {
  if ((await sandboxNames()).includes(name)) throw new UsageError(`${name}: there is a sandbox of that name`);
  const log = openLog(name);
  try {
    await goOnInBackground(log.fd);
    process.stdout.write(`${name}\n`);
  } finally {
    log.close();
  }
}

/** Holds a sandbox until it is removed, or a signal comes. */
export async function holdUntil(stop: AbortSignal, name: string, box: Sandbox): Promise<void> {
  const holder = new SandboxHolder();
  await holder.hold(name, box);
  tellReady();
  await Promise.race([aborted(stop), holder.empty]);
  await holder.close();
}
