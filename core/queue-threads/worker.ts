import { parentPort, workerData } from 'node:worker_threads';
import { AddressSpace } from '../memory/index.js';
import {
  type Fd,
  DescriptorUse,
  endForeignSignals,
  Mapping,
  OwnedFd,
  signal,
  signalForeign,
  watchSignals,
} from '../system/index.js';
import { type InflightPlace, InflightQueue, Poller, type QueueLog, Virtqueue } from '../virtqueue/index.js';
import { DirectCalls } from './direct-calls.js';
import { DirectService } from './direct-service.js';
import { ThreadMailbox } from './mailbox.js';
import type { Notice, Command, SharedRegion, ServeCommand, ThreadData } from './messages.js';
import { FileTableView } from './shared-file-table.js';

// The program of a thread that serves queues: see `QueueThreads`.

const { user, own, engine, pollTime } = workerData as ThreadData;
const port = parentPort!;
const use = new DescriptorUse(user);
const calls = new DirectCalls();
const poller = new Poller(pollTime);
const queues = new Map<number, { readonly virtqueue: Virtqueue; readonly space: AddressSpace }>();

/** For each paused queue, the number of its pause. */
const pauses = new Map<number, number>();

function say(notice: Notice): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
  port.postMessage(notice);
}

function serve(command: ServeCommand): void {
  const { queue } = command;
  const space = new AddressSpace();
  extend(space, command.regions);
  const { inflight, again } = command;
  const service = new DirectService(
    new ThreadMailbox(command.mailbox, command.size, again.length),
    new FileTableView(command.fileTable, use),
    use,
    calls,
    () => signal(engine),
  );
  const log: QueueLog = {
    warn: (fields, reason) => say({ notice: 'warning', queue, fields, reason }),
    stopped: (fields, reason) => say({ notice: 'broken', queue, fields, reason }),
  };
  const virtqueue = new Virtqueue(space, command.size, log, poller);
  virtqueue.setAddresses(command.descriptors, command.available, command.used);
  virtqueue.features = command.features;
  virtqueue.base = command.base;
  virtqueue.takeOver(inflight === undefined ? undefined : tracked(inflight), again);
  virtqueue.setKick(owned(command.kick));
  virtqueue.setCall(owned(command.call));
  queues.set(queue, { virtqueue, space });
  virtqueue.start(service);
}

function tracked({ address, length, queueSize }: InflightPlace): InflightQueue {
  return new InflightQueue(Mapping.at(address, length), { queues: 1, queueSize }, 0);
}

/** Adds the regions that a space does not have yet. */
function extend(space: AddressSpace, regions: readonly SharedRegion[]): void {
  for (const { address, length, guestAddress, userAddress } of regions) {
    if (space.translateGuest(guestAddress, length) < 0)
      space.add(Mapping.at(address, length), guestAddress, userAddress);
  }
}

function pause(queue: number, virtqueue: Virtqueue, number: number): void {
  virtqueue.pause();
  pauses.set(queue, number);
  say({ notice: 'paused', queue, pause: number });
  void sayIdle(queue, virtqueue, number);
}

async function sayIdle(queue: number, virtqueue: Virtqueue, number: number): Promise<void> {
  // The queue may be resumed before it is idle, and paused again: that is another pause.
  while (!virtqueue.isIdle && pauses.get(queue) === number) await virtqueue.whenIdle();
  if (pauses.get(queue) === number) say({ notice: 'idle', queue, pause: number });
}

function owned(fd: Fd): OwnedFd | undefined {
  return fd < 0 ? undefined : new OwnedFd(fd);
}

/**
 * Ends the thread: nothing keeps its event loop alive from here on. Memory and descriptors belong
 * to the process and would outlive the thread, so it frees and closes them itself.
 */
function end(): void {
  for (const { virtqueue } of queues.values()) virtqueue.close();
  calls.close();
  endForeignSignals();
  waking.close();
  port.close();
}

function execute(command: Command): void {
  if (command.command === 'serve') {
    serve(command);
    return;
  }
  if (command.command === 'end') {
    end();
    return;
  }
  const { queue } = command;
  const { virtqueue, space } = queues.get(queue)!;
  switch (command.command) {
    case 'pause':
      pause(queue, virtqueue, command.pause);
      break;
    case 'memory':
      extend(space, command.regions);
      break;
    case 'resume':
      pauses.delete(queue);
      virtqueue.resume();
      break;
    case 'call':
      virtqueue.setCall(owned(command.fd));
      // The guest may have missed interrupts that went to the former descriptor.
      if (command.fd >= 0) signalForeign(command.fd);
      break;
    case 'stop':
      virtqueue.close();
      queues.delete(queue);
      pauses.delete(queue);
      say({ notice: 'stopped', queue });
  }
}

port.on('message', execute);
say({ notice: 'started' });
const waking = watchSignals(own, () => poller.serve());
