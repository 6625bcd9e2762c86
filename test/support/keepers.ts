import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { connectTo, type Daemon, type RunningDaemon } from './daemons.js';
import { FrontEnd, type FrontEndOptions } from './front-end.js';
import { FuseClient, ROOT } from './fuse-client.js';
import { program } from './program.js';
import { fuseTransport } from './vhost-user.js';

const run = promisify(execFile);

/** What {@link guestsAtWork} locks, for writing. */
export const LOCK = { start: 0n, end: 9n, type: 1, pid: 1 };

/** This program with a keeper. @param backend its options; DIRECTORY stands for the shared one. */
export function keeping(backend: readonly string[], ...more: readonly string[]): Daemon {
  return {
    name: 'virtiofs-kit with a keeper',
    missing: undefined,
    requestQueues: 2,
    listensAgain: true,
    command: (directory, socket) => [
      process.execPath,
      program,
      'serve',
      '--keep',
      '--socket-path',
      socket,
      '--tag',
      'test',
      '--log-level',
      process.env['KEEPER_LOG'] ?? 'silent',
      ...backend.map((word) => word.replace('DIRECTORY', directory)),
      ...more,
    ],
  };
}

export const keptPassthrough = keeping(['--backend', 'passthrough', '--shared-dir', 'DIRECTORY']);
/** The second request queue of a guest is a thread's, and the first of a second guest. */
export const keptThreaded = keeping(
  ['--backend', 'passthrough', '--shared-dir', 'DIRECTORY'],
  '--queue-threads',
  '1',
);
export const keptMemfs = keeping(['--backend', 'memfs']);

export async function connectKept(t: TestContext, daemon: RunningDaemon, options: FrontEndOptions = {}) {
  const frontEnd = await FrontEnd.connect(await connectTo(daemon), options);
  t.after(() => frontEnd.close());
  return { frontEnd, fuse: new FuseClient(fuseTransport(frontEnd)) };
}

/** @returns the pause in milliseconds. */
export async function upgrade({ socket }: RunningDaemon): Promise<number> {
  const { stdout } = await run(process.execPath, [program, 'upgrade', socket]);
  const [, from, to, pauseMs] = /^engine (\d+) was replaced by (\d+), guests paused for (\d+) ms\n$/.exec(
    stdout,
  )!;
  assert.notEqual(from, to);
  return Number(pauseMs);
}

/** Process ids of a keeper's children: the engine that serves, and one that waits. */
export function enginesOf({ process: { pid } }: Pick<RunningDaemon, 'process'>): number[] {
  const list = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  return list === '' ? [] : list.split(' ').map(Number);
}

/** Kills the engine that serves, when another one waits. @returns its process id. */
export async function killEngine(running: Pick<RunningDaemon, 'process'>): Promise<number> {
  while (enginesOf(running).length < 2) await sleep(10);
  const [serving] = enginesOf(running);
  process.kill(serving!, 'SIGKILL');
  while (enginesOf(running)[0] === serving) await sleep(2);
  return serving!;
}

/**
 * Two guests of one export: the first has an open file, a removed one that is open, a listing that
 * it has begun and a lock, for which the other waits.
 */
export async function guestsAtWork(t: TestContext, running: RunningDaemon) {
  const { fuse } = await connectKept(t, running);
  const { fuse: other } = await connectKept(t, running);
  await fuse.init();
  await other.init();
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
  const removed = await fuse.create(ROOT, 'removed');
  await fuse.write(removed.entry.nodeid, removed.open.fh, 0, Buffer.from('no name'));
  await fuse.unlink(ROOT, 'removed');
  for (const directory of ['a', 'b', 'c']) await fuse.mkdir(ROOT, directory);
  const listing = await fuse.opendir(ROOT);
  const [, , first] = await fuse.readdir(ROOT, listing.fh, 0n, 4096);
  await fuse.setlk(entry.nodeid, open.fh, 7n, LOCK);
  const theirs = await other.lookup(ROOT, 'file');
  const { fh } = await other.open(theirs.nodeid, 2);
  const state = { granted: false };
  const wait = async (): Promise<void> => {
    await other.setlk(theirs.nodeid, fh, 7n, LOCK, true);
    state.granted = true;
  };
  const waiting = wait();
  return Object.assign(state, { fuse, other, entry, open, removed, listing, first, theirs, waiting });
}

/** Programs of a guest that append lines to one file, until they are told to stop. */
export interface Appenders {
  readonly nodeid: bigint;
  /** How many lines were appended. */
  readonly lines: () => number;
  /** Rejects if a line cannot be appended. */
  readonly over: Promise<unknown>;
}

/** Begins with lines of 5 bytes in the file `log`. */
export async function appending(fuse: FuseClient, count: number, stop: AbortSignal): Promise<Appenders> {
  const { entry, open } = await fuse.create(ROOT, 'log', 0o644, 0o2002);
  const { nodeid } = entry;
  let lines = 0;
  const append = async (): Promise<void> => {
    for (; !stop.aborted; lines++) await fuse.write(nodeid, open.fh, 0, Buffer.from('line\n'));
  };
  return { nodeid, lines: () => lines, over: Promise.all(Array.from({ length: count }, append)) };
}

/** What a guest does while its engine is killed, see {@link workWhileKilled}. */
export interface KilledWork {
  readonly kills: number;
  /** How many append to one file. */
  readonly appenders: number;
  /** Names of the directories in which somebody works. */
  readonly names: readonly string[];
  /** Makes such a directory, changes and removes it. */
  change(name: string): Promise<void>;
  /** Whether so much was done at least. On a busy machine little is done between two kills. */
  isEnough(lines: number, directories: number): boolean;
}

/**
 * A guest works on while its engine is killed again and again. Each of its requests must succeed,
 * and what it appends be there once.
 */
export async function workWhileKilled(
  t: TestContext,
  running: RunningDaemon,
  fuse: FuseClient,
  { kills, appenders, names, change, isEnough }: KilledWork,
): Promise<void> {
  const stop = new AbortController();
  const appended = await appending(fuse, appenders, stop.signal);
  let made = 0;
  const changeAgain = async (name: string): Promise<void> => {
    for (; !stop.signal.aborted; made++) await change(name);
  };
  const working = Promise.all([appended.over, ...names.map(changeAgain)]);
  for (let times = 0; times < kills; times++) {
    await killEngine(running);
    await sleep(600 + Math.random() * 300);
  }
  while (!isEnough(appended.lines(), made)) await Promise.race([working, sleep(50)]);
  stop.abort();
  await working;
  const lines = Number((await fuse.getattr(appended.nodeid)).size) / 5;
  t.diagnostic(`${lines} lines, ${made} directories`);
  assert.equal(lines, appended.lines());
  assert.ok(isEnough(lines, made));
}
