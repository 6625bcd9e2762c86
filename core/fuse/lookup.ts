import { Errno, type Entry } from '../backend/index.js';
import { NO_SLOT } from '../state/index.js';
import { enter } from './entry.js';
import { finishEmpty, GATHERED, type Operation } from './operation.js';
import { BODY } from './reply.js';
import {
  fuse_batch_forget_in,
  fuse_entry_out,
  fuse_forget_in,
  fuse_forget_one,
  fuse_in_header,
} from './structures.js';

/** A name is resolved; a missing one may be remembered as missing. */
export const lookup: Operation<Entry<object> | undefined> = {
  name: 'LOOKUP',
  arguments: 0,
  reply: fuse_entry_out.bytes,
  apart: true,
  start(session, request) {
    const slot = session.node();
    session.in.seek(0);
    const name = session.in.name();
    session.in.finish();
    const { backend } = session;
    const parent = session.nodes.node(slot);
    if (session.mayGather(0) && backend.gatherLookup?.(parent, name, request.context)) return GATHERED;
    return backend.lookup(parent, name, request.context);
  },
  finish(session, _request, entry) {
    if (entry !== undefined) {
      enter(session, BODY, entry);
      return fuse_entry_out.bytes;
    }
    const { seconds, nanoseconds } = session.negativeValidity;
    if (seconds === 0 && nanoseconds === 0) return -Errno.ENOENT;
    session.out.zero(BODY, fuse_entry_out.bytes);
    session.out.u64(BODY + fuse_entry_out.entry_valid, seconds);
    session.out.u32(BODY + fuse_entry_out.entry_valid_nsec, nanoseconds);
    return fuse_entry_out.bytes;
  },
  discard(session, _request, entry) {
    if (entry !== undefined) session.nodes.discard(entry.node);
  },
};

/** The guest drops some of its lookups of a node. */
export const forget: Operation<undefined> = {
  name: 'FORGET',
  arguments: fuse_forget_in.bytes,
  reply: 0,
  silent: true,
  start(session) {
    const { ints } = session.in;
    const at = fuse_in_header.nodeid >> 2;
    const slot = session.nodes.find(ints[at]!, ints[at + 1]!);
    if (slot !== NO_SLOT) session.counts.forget(slot, session.in.u64(fuse_forget_in.nlookup));
    return undefined;
  },
  finish: finishEmpty,
};

/** Many FORGETs in one. The list is read piece by piece: it may be longer than what is taken in at once. */
export const batchForget: Operation<undefined> = {
  name: 'BATCH_FORGET',
  arguments: fuse_batch_forget_in.bytes,
  reply: 0,
  silent: true,
  start(session, request) {
    const { readable } = request.message;
    const first = fuse_in_header.bytes + fuse_batch_forget_in.bytes;
    const one = fuse_forget_one.bytes;
    const room = Math.floor((readable.length - first) / one);
    const count = Math.min(session.in.u32(fuse_batch_forget_in.count), room);
    for (let i = 0; i < count; i++) {
      readable.copyOut(first + i * one, item8, 0, one);
      const slot = session.nodes.find(item[0]! | 0, item[1]! | 0);
      if (slot !== NO_SLOT) session.counts.forget(slot, item[3]! * 0x100000000 + item[2]!);
    }
    return undefined;
  },
  finish: finishEmpty,
};

/** One `struct fuse_forget_one`. */
const item = new Uint32Array(fuse_forget_one.bytes / 4);
const item8 = new Uint8Array(item.buffer);
