import { read, readlinkSync, write } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type OwnedFd, setNonBlocking } from '../system/index.js';
import { isUnixStream } from './socket-options.js';

/*
 * A device's state in a pipe that the front-end gave: QEMU makes one with pipe(2), Cloud Hypervisor
 * with socketpair(2). Whether a call on it blocks depends on a flag of the open file, which the
 * front-end may clear at any moment. So each call is made on the thread pool, and only a few at a
 * time.
 */

/** Bytes of one read or write. */
const PIECE_BYTES = 1 << 20;

/** Transfers that may have a call on the pool at a time: one that blocks keeps its thread. */
const MAX_CALLS = 2;

/** How long the front-end may leave the pipe as it is. It may wait for a network. Milliseconds. */
const PATIENCE_MS = 60_000;

/** Pauses while the pipe is empty or full: the first and the longest. Milliseconds. */
const FIRST_PAUSE_MS = 1;
const LONGEST_PAUSE_MS = 10;

/** Bytes that all transfers hold. */
let held = 0;

let calls = 0;
const waiting: (() => void)[] = [];

/** A transfer has failed. The text says why. */
export class StateTransferError extends Error {
  override readonly name = 'StateTransferError';
}

/**
 * Why a descriptor is neither a pipe nor a stream socket of this host; undefined if it is one. Its
 * file system is not asked. The close of a socket of a network may wait.
 */
export function whyNoPipe({ value }: OwnedFd): string | undefined {
  try {
    const kind = readlinkSync(`/proc/self/fd/${value}`);
    if (kind.startsWith('pipe:') || (kind.startsWith('socket:') && isUnixStream(value))) return undefined;
    return 'it is neither a pipe nor a unix stream socket';
  } catch {
    return 'it is not open';
  }
}

/**
 * Reads a pipe to its end.
 * @param most bytes that all transfers together may hold.
 * @param use gets the bytes, which count until its promise settles.
 * @throws StateTransferError for more bytes, for a front-end that sends nothing for a minute, or
 * when the signal is aborted; also what `use` throws.
 */
export async function readState<T>(
  fd: OwnedFd,
  most: number,
  signal: AbortSignal,
  use: (state: Uint8Array) => Promise<T>,
): Promise<T> {
  let buffer: Buffer = Buffer.alloc(0);
  let length = 0;
  try {
    await transfer(fd, signal, async () => {
      if (length === buffer.length) buffer = grown(buffer, most);
      const count = await readOnce(fd.value, buffer, length);
      length += count;
      return count === 0 ? 'done' : 'more';
    });
    return await use(buffer.subarray(0, length));
  } finally {
    held -= buffer.length;
  }
}

/** A buffer of twice the length with the same content. Counts what it has more. */
function grown(buffer: Buffer, most: number): Buffer {
  const more = Math.min(Math.max(buffer.length, PIECE_BYTES), most - held);
  if (more <= 0) throw new StateTransferError(`the state is larger than ${most} bytes`);
  const larger = Buffer.allocUnsafeSlow(buffer.length + more);
  buffer.copy(larger);
  held += more;
  return larger;
}

/**
 * Writes to a pipe.
 * @throws StateTransferError for a front-end that takes nothing for a minute, or has closed the
 * pipe, or when the signal is aborted.
 */
export async function writeState(fd: OwnedFd, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  let written = 0;
  await transfer(fd, signal, async () => {
    if (written < bytes.length) written += await writeOnce(fd.value, bytes, written);
    return written < bytes.length ? 'more' : 'done';
  });
}

/** Makes calls until one says that it was the last. */
async function transfer(
  fd: OwnedFd,
  signal: AbortSignal,
  step: () => Promise<'more' | 'done'>,
): Promise<void> {
  let pause = FIRST_PAUSE_MS;
  let last = performance.now();
  for (;;) {
    if (signal.aborted) throw new StateTransferError('the connection has ended');
    setNonBlocking(fd.value);
    try {
      if ((await inTurn(step)) === 'done') return;
      pause = FIRST_PAUSE_MS;
      last = performance.now();
    } catch (error) {
      if (error instanceof StateTransferError) throw error;
      const { code = '' } = error as NodeJS.ErrnoException;
      if (code !== 'EAGAIN') throw new StateTransferError(`the pipe fails: ${code}`, { cause: error });
      if (performance.now() - last > PATIENCE_MS)
        throw new StateTransferError('the front-end does not go on with the state');
      await sleep(pause);
      pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
    }
  }
}

async function inTurn<T>(step: () => Promise<T>): Promise<T> {
  if (calls >= MAX_CALLS) await new Promise<void>((resolve) => waiting.push(resolve));
  calls += 1;
  try {
    return await step();
  } finally {
    calls -= 1;
    waiting.shift()?.();
  }
}

function readOnce(fd: number, buffer: Buffer, at: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const length = Math.min(buffer.length - at, PIECE_BYTES);
    read(fd, buffer, at, length, null, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

function writeOnce(fd: number, bytes: Uint8Array, from: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const length = Math.min(bytes.length - from, PIECE_BYTES);
    write(fd, bytes, from, length, null, (error, count) => (error ? reject(error) : resolve(count)));
  });
}
