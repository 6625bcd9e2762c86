import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, readFileSync, writeSync } from 'node:fs';
import { UsageError } from '../../backend/index.js';
import type { Sandbox } from '../../sandbox/index.js';
import { aborted } from '../serving/signals.js';
import { SandboxHolder } from './holder.js';
import { openLog, sandboxNames } from './places.js';

/** Tells the process that is to hold a sandbox so, and by which descriptor it says that it does. */
const READY_FD = 'VIRTIOFS_KIT_SANDBOX_READY';

/** Whether this process is the one that holds a sandbox. */
export function isHolder(): boolean {
  return process.env[READY_FD] !== undefined;
}

/**
 * Starts this program again, in the background, to hold a sandbox. Returns when that is up.
 * @throws UsageError with what it said if it does not come up, or if the name is taken.
 */
export async function startHolder(name: string): Promise<void> {
  if ((await sandboxNames()).includes(name)) throw new UsageError(`${name}: there is a sandbox of that name`);
  const log = openLog(name);
  try {
    const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
      stdio: ['ignore', log.fd, log.fd, 'pipe'],
      env: { ...process.env, [READY_FD]: '3' },
      detached: true,
    });
    const ready = child.stdio[3]!;
    const isUp = await Promise.race([
      once(ready, 'data').then(() => true),
      once(child, 'exit').then(() => false),
    ]);
    if (!isUp) {
      const said = readFileSync(log.path, 'utf8')
        .trim()
        .replaceAll(/^virtiofs-kit: /gm, '');
      throw new UsageError(said === '' ? `${name}: it ended at once` : said);
    }
    ready.destroy();
    child.unref();
    process.stdout.write(`${name}\n`);
  } finally {
    log.close();
  }
}

/** Holds a sandbox until it is removed, or a signal comes. */
export async function holdUntil(stop: AbortSignal, name: string, box: Sandbox): Promise<void> {
  const holder = new SandboxHolder();
  await holder.hold(name, box);
  const fd = Number(process.env[READY_FD]);
  writeSync(fd, 'ready');
  closeSync(fd);
  await Promise.race([aborted(stop), holder.empty]);
  await holder.close();
}
