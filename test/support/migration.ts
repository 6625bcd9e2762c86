import { read, write } from 'node:fs';
import { promisify } from 'node:util';
import { check, type Fd, libc, NativeMemory, OwnedFd, result } from '../../core/system/index.js';
import { encodeVringState } from '../../core/vhost-user/messages.js';
import { encodeStateTransfer } from './payloads.js';
import type { FrontEnd } from './front-end.js';

const pipe2 = libc<(ends: number, flags: number) => number>('pipe2', 'int', ['uintptr_t', 'int']);
const socketpair = libc<(domain: number, type: number, protocol: number, ends: number) => number>(
  'socketpair',
  'int',
  ['int', 'int', 'int', 'uintptr_t'],
);
// SOCK_CLOEXEC has the same value.
const O_CLOEXEC = 0o2000000;
const [AF_UNIX, SOCK_STREAM] = [1, 1];
const ends = NativeMemory.allocate(16);
const EMPTY = new Uint8Array(0);

/** The ends of a pipe that block, as QEMU's do. */
export function makePipe(): { readonly reading: OwnedFd; readonly writing: OwnedFd } {
  check(result(pipe2(ends.address, O_CLOEXEC)), 'pipe2');
  return { reading: new OwnedFd(ends.u32[0]! as Fd), writing: new OwnedFd(ends.u32[1]! as Fd) };
}

/** The same of a socket, as Cloud Hypervisor has it. */
export function makeSocketPair(): { readonly reading: OwnedFd; readonly writing: OwnedFd } {
  check(result(socketpair(AF_UNIX, SOCK_STREAM | O_CLOEXEC, 0, ends.address)), 'socketpair');
  return { reading: new OwnedFd(ends.u32[0]! as Fd), writing: new OwnedFd(ends.u32[1]! as Fd) };
}

/** Stops all queues, as a monitor does that pauses its guest. @returns where each stopped. */
export async function stopQueues(frontEnd: FrontEnd): Promise<number[]> {
  const bases: number[] = [];
  for (const { index } of frontEnd.queues) {
    const reply = await frontEnd.channel.call('GET_VRING_BASE', encodeVringState(index, 0));
    bases.push(new DataView(reply.buffer, reply.byteOffset).getUint32(4, true));
  }
  return bases;
}

/** Starts all queues again. */
export async function startQueues(frontEnd: FrontEnd, bases: readonly number[]): Promise<void> {
  for (const [index, base] of bases.entries()) await frontEnd.startQueue(index, base);
}

/** The session's state, as QEMU takes it; undefined if the daemon refuses. */
export async function saveState(frontEnd: FrontEnd, make = makePipe): Promise<Buffer | undefined> {
  const { reading, writing } = make();
  try {
    const taken = await frontEnd.channel.call('SET_DEVICE_STATE_FD', encodeStateTransfer('save'), [
      writing.value,
    ]);
    writing.close();
    if (taken[0] !== 0) return undefined;
    const pieces: Buffer[] = [];
    for (;;) {
      const { bytesRead, buffer } = await promisify(read)(reading.value, { buffer: Buffer.alloc(1 << 16) });
      if (bytesRead === 0) break;
      pieces.push(Buffer.from(buffer.subarray(0, bytesRead)));
    }
    return (await checkState(frontEnd)) ? Buffer.concat(pieces) : undefined;
  } finally {
    writing.close();
    reading.close();
  }
}

/** Gives a daemon a session's state. @returns whether it goes on with it. */
export async function loadState(frontEnd: FrontEnd, state: Uint8Array, make = makePipe): Promise<boolean> {
  const { reading, writing } = make();
  try {
    const taken = await frontEnd.channel.call('SET_DEVICE_STATE_FD', encodeStateTransfer('load'), [
      reading.value,
    ]);
    reading.close();
    if (taken[0] !== 0) return false;
    for (let at = 0; at < state.length;) {
      at += await promisify(write)(writing.value, state, at, Math.min(state.length - at, 1 << 16)).then(
        ({ bytesWritten }) => bytesWritten,
      );
    }
    writing.close();
    return await checkState(frontEnd);
  } finally {
    writing.close();
    reading.close();
  }
}

async function checkState(frontEnd: FrontEnd): Promise<boolean> {
  const reply = await frontEnd.channel.call('CHECK_DEVICE_STATE', EMPTY);
  return reply.every((byte) => byte === 0);
}
