import { eachInTurns } from '../../backend/in-turns.js';
import { Errno, type Entry } from '../../backend/index.js';
import { NO_SLOT, type NodeIdHigh, type NodeIdLow } from '../../state/index.js';
import { enter, noteChild } from './entry.js';
import { lookUpDots } from './lookup-by-id.js';
import { finishEmpty, GATHERED, type Operation } from './operation.js';
import { BODY } from '../wire/reply.js';
import { putMissing } from '../wire/reply-writers.js';
import type { Session } from '../session/session.js';
import { hashOfName } from '../session/file-table.js';
import {
  fuse_batch_forget_in,
  fuse_entry_out,
  fuse_forget_in,
  fuse_forget_one,
  fuse_in_header,
} from '../wire/structures.js';

const HEADER = fuse_in_header.bytes;

/**
 * Nodes that one BATCH_FORGET takes at most: 2 MiB of them, more than Linux puts into one. A chain
 * can have gigabytes, all of the same memory.
 */
const MAX_FORGOTTEN = 131_072;

/** Looks a name up. The guest may cache that it is missing, if the export's options allow that. */
export const lookup: Operation<Entry<object> | undefined> = {
  name: 'LOOKUP',
  arguments: 0,
  reply: fuse_entry_out.bytes,
  startsDuringBatch: true,
  start(session, request) {
    session.in.seek(0);
    const dots = lookUpDots(session, request);
    if (dots !== undefined) return dots;
    const slot = session.node();
    const name = session.in.name();
    session.in.finish();
    const { backend, accelerator } = session;
    const parent = session.nodes.node(slot);
    request.slot = slot;
    if (session.journal !== undefined) {
      request.child = name;
      request.childVersion = session.journal.names.version;
    }
    if (request.message.passedOn === true)
      request.name = hashOfName(session.in.bytes, HEADER, session.in.end - 1);
    if (session.mayGather(0) && accelerator.gatherLookup?.(parent, name, request.context)) return GATHERED;
    return backend.lookup(parent, name, request.context);
  },
  finish(session, request, entry) {
    const isPassedOn = request.message.passedOn === true;
    if (isPassedOn) session.publishNode(request.slot, undefined);
    if (entry !== undefined) {
      const slot = enter(session, BODY, entry);
      noteChild(session, request, slot, entry);
      if (isPassedOn) session.publishEntry(request.slot, request.name, slot, entry.attributes);
      return fuse_entry_out.bytes;
    }
    if (request.child !== undefined)
      session.journal?.names.missing(request.slot, request.child, request.childVersion);
    const length = putMissing(session.out.words, session.negativeValidity);
    return length === 0 ? -Errno.ENOENT : length;
  },
  discard(session, _request, entry) {
    if (entry !== undefined) session.nodes.discard(entry.node);
  },
};

/** The guest gives up some of its lookups of a node. */
export const forget: Operation<undefined> = {
  name: 'FORGET',
  arguments: fuse_forget_in.bytes,
  reply: 0,
  silent: true,
  start(session) {
    const { ints } = session.in;
    const at = fuse_in_header.nodeid >> 2;
    drop(session, ints[at] as NodeIdLow, ints[at + 1] as NodeIdHigh, session.in.u64(fuse_forget_in.nlookup));
    return undefined;
  },
  finish: finishEmpty,
};

/**
 * Many FORGETs in one request. The list is read item by item from guest memory, since it may be
 * longer than what {@link Arguments} holds.
 */
export const batchForget: Operation<void> = {
  name: 'BATCH_FORGET',
  arguments: fuse_batch_forget_in.bytes,
  reply: 0,
  silent: true,
  start(session, request) {
    const { readable } = request.message;
    const first = fuse_in_header.bytes + fuse_batch_forget_in.bytes;
    const one = fuse_forget_one.bytes;
    const room = Math.floor((readable.length - first) / one);
    const count = Math.min(session.in.u32(fuse_batch_forget_in.count), room, MAX_FORGOTTEN);
    const forgetOne = (i: number): void => {
      // The guest may have begun anew since, or its memory be gone.
      if (request.context.aborted || request.abandoned) return;
      readable.copyOut(first + i * one, item8, 0, one);
      const low = (item[0]! | 0) as NodeIdLow;
      const high = (item[1]! | 0) as NodeIdHigh;
      drop(session, low, high, item[3]! * 0x100000000 + item[2]!);
    };
    if (session.journal === undefined) return eachInTurns(0, count, forgetOne);
    // Carried out twice, after a crash in between, it would take lookups that the guest still has.
    for (let i = 0; i < count; i++) forgetOne(i);
    return undefined;
  },
  finish: finishEmpty,
};

/** Takes `count` lookups of a node from the guest. The node's id is given in halves. */
function drop(session: Session, low: NodeIdLow, high: NodeIdHigh, count: number): void {
  const { counts, nodes, fileTable } = session;
  const slot = nodes.find(low, high);
  if (slot === NO_SLOT) return;
  fileTable?.withdrawEntry(slot);
  counts.forget(slot, count);
  if (counts.of(slot) === 0) fileTable?.withdrawNode(low, high);
}

/** Room for one `struct fuse_forget_one`. */
const item = new Uint32Array(fuse_forget_one.bytes / 4);
const item8 = new Uint8Array(item.buffer);
