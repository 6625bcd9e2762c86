import { finishEmpty, type Operation } from './operation.js';
import { fuse_in_header, fuse_interrupt_in } from '../wire/structures.js';

/**
 * Aborts a request. If it is not in flight, it was answered already or is still to come on another
 * queue, so its id is kept for a while (Linux Documentation/filesystems/fuse, "Interrupting
 * filesystem operations"). There is no reply. The kernel would take one over `/dev/fuse`, but it
 * could only ask for the interrupt to be sent again.
 */
export const interrupt: Operation<undefined> = {
  name: 'INTERRUPT',
  arguments: fuse_interrupt_in.bytes,
  reply: 0,
  silent: true,
  start(session) {
    const at = (fuse_in_header.bytes + fuse_interrupt_in.unique) >> 2;
    const low = session.in.ints[at]!;
    const high = session.in.ints[at + 1]!;
    if (!session.interrupt(low, high)) session.expectInterrupted(low, high);
    return undefined;
  },
  finish: finishEmpty,
};

/** The guest's answer to a notification. None is ever sent, so this is ignored. */
export const notifyReply: Operation<undefined> = {
  name: 'NOTIFY_REPLY',
  arguments: 0,
  reply: 0,
  silent: true,
  start: () => undefined,
  finish: finishEmpty,
};
