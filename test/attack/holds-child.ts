import { setImmediate as turn } from 'node:timers/promises';
import { Session } from '../../core/fuse/index.js';
import { BackendRegistry, createLogger, openExport } from '../../core/plugins/index.js';
import { libc, NativeMemory } from '../../core/system/index.js';
import { VhostUserServer } from '../../core/vhost-user/index.js';
import { journaled, PlainMemory } from '../support/journaled.js';

/*
 * Serves a backend, and measures how long its thread goes without a turn of the event loop.
 *
 *   node holds-child.js SOCKET BACKEND plain|kept
 */

const THREAD_CPUTIME = 3;
const clockGettime = libc<(clock: number, time: number) => number>('clock_gettime', 'int', [
  'int',
  'uintptr_t',
]);
const time = NativeMemory.allocate(16);

/** Processor time of this thread, in milliseconds: others take some of the clock's. */
function cpuMs(): number {
  clockGettime(THREAD_CPUTIME, time.address);
  const [seconds, , nanoseconds] = time.u32;
  return seconds! * 1000 + nanoseconds! / 1e6;
}

const [socket, text, how] = process.argv.slice(2) as [string, string, string];
const type = JSON.parse(text) as { readonly type: string };
const log = createLogger({ level: 'warn', format: 'json' });
const limits = { handles: 200_000 };
let openSession: () => Session;
if (how === 'kept') {
  const kept = await journaled(await new BackendRegistry().create(type, { log }), new PlainMemory(2 ** 26));
  openSession = () => kept.kept().session;
} else {
  const settings = { readOnly: false, locks: 'shared', cache: {}, limits } as const;
  const shared = await openExport(type, settings, { registry: new BackendRegistry(), log });
  openSession = () => new Session(shared);
}
VhostUserServer.start({ socket: { path: socket }, tag: 'holds', requestQueues: 1, log, openSession });

let longest = 0;
process.on('message', () => {
  process.send!(longest);
  longest = 0;
});
process.on('disconnect', () => process.exit(0));
process.send!('ready');
for (let last = cpuMs(); ;) {
  await turn();
  const now = cpuMs();
  longest = Math.max(longest, now - last);
  last = now;
}
