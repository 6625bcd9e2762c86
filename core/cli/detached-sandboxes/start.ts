import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { UsageError } from '../../backend/index.js';
import { createLogger } from '../../plugins/logger.js';
import { goOnInBackground, tellReady } from '../serving/background.js';
import { aborted, stopSignal, surviveRejections } from '../serving/signals.js';
import { SandboxHolder } from './holder.js';
import { connectTo, holderPlace, logOf, sandboxNames, TakenPlace } from './places.js';
import { chooseProcess } from './shared-process.js';
import type { StartOptions } from './start-options.js';
import { converse } from './visit.js';

/** How often a process is looked for, which may be about to begin, or to end. */
const MOST_TRIES = 200;
const TRY_MS = 50;

/** The word by which this program is started to hold sandboxes. */
export const HOLD = 'hold';

/**
 * Starts a sandbox in the process that holds those of this user, which is started if there is none.
 * Returns when the sandbox is up.
 * @param isAlone whether it has a process of its own.
 * @throws UsageError with what is wrong, if it does not come up, or if the name is taken.
 */
export async function startDetached(name: string, options: StartOptions, isAlone: boolean): Promise<void> {
  if ((await sandboxNames()).includes(name)) throw new UsageError(`${name}: there is a sandbox of that name`);
  const { key, cwd } = chooseProcess(options, isAlone);
  const place = holderPlace(key);
  for (let tries = 0; tries < MOST_TRIES; tries++) {
    const socket = await connectTo(place);
    if (socket === undefined) {
      await startHolder(place, key, cwd);
      await sleep(tries === 0 ? 0 : TRY_MS);
    } else if ((await converse(socket, { name, options })) !== undefined) {
      process.stdout.write(`${name}\n`);
      return;
    }
  }
  throw new UsageError(`${place}: a process has it that holds no sandboxes`);
}

async function startHolder(place: string, key: string, cwd: string): Promise<void> {
  const log = openSync(logOf(place), 'a+', 0o600);
  try {
    await goOnInBackground(log, { words: ['sandbox', HOLD, key], cwd });
  } finally {
    closeSync(log);
  }
}

/**
 * Holds the sandboxes of a key until the last one is removed, or a signal comes. Where another
 * process does so, nothing happens.
 */
export async function holdSandboxes(key: string): Promise<void> {
  const stop = stopSignal();
  const log = createLogger({ level: 'error', format: 'auto' });
  surviveRejections(log);
  const place = TakenPlace.take(holderPlace(key));
  if (place === undefined) return tellReady();
  const holder = new SandboxHolder(log);
  await holder.listen(place.socket);
  tellReady();
  await Promise.race([aborted(stop), holder.empty]);
  // Who comes now starts another process.
  place.leave();
  await holder.close();
}
