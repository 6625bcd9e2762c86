import { fstatSync } from 'node:fs';
import type { LastingMemory } from '../backend/accelerator.js';
import type { LogMemory } from '../lasting-memory/index.js';
import { type Fd, Mapping, memfd, type OwnedFd, Seal } from '../system/index.js';
import { fallocate } from '../system/calls/files.js';
import { leaveUncounted } from '../system/memory/v8-accounting.js';

/**
 * Bytes of a session journal. Only pages that were written take memory. A known file takes about
 * 72, twice while the journal is gathered anew.
 */
const JOURNAL_BYTES = 2 ** 29;

const SEALS = Seal.SHRINK | Seal.GROW | Seal.SEAL;

/** fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 3;

/** Memory for a session journal. The descriptor keeps it when this process is gone. */
export interface OwnedJournalMemory extends LogMemory {
  readonly fd: OwnedFd;
  /** The memory is not used here any more. */
  close(): void;
}

/** Makes memory for a journal. @throws SystemError */
export function makeJournalMemory(): OwnedJournalMemory {
  const fd = memfd('virtiofs-kit sessions', JOURNAL_BYTES, SEALS);
  const { mapping, view } = map(fd.value, 0, JOURNAL_BYTES);
  return {
    fd,
    words: new Int32Array(view),
    discard(from, to) {
      fallocate(fd.value, PUNCH_HOLE, from * 4, (to - from) * 4);
    },
    close() {
      mapping.unmap();
      fd.close();
    },
  };
}

/** Stands for memory that an export does not need. @throws SystemError */
export function noMemory(): OwnedFd {
  return memfd('virtiofs-kit nothing', 4);
}

/**
 * Reads the journal that a former process has left.
 * @throws RangeError, SystemError if that is not possible, and what `read` throws.
 */
export function withJournalMemory<T>({ value: fd }: OwnedFd, read: (memory: LogMemory) => T): T {
  const { mapping, view } = map(fd, 0, fstatSync(fd).size);
  try {
    return read({ words: new Int32Array(view), discard: () => undefined });
  } finally {
    mapping.unmap();
  }
}

/** Makes memory for what a backend has. @throws SystemError */
export function makeContentsMemory(bytes: number): OwnedFd {
  return memfd('virtiofs-kit contents', bytes, SEALS);
}

/** @param fd which {@link makeContentsMemory} has made, here or in a former process. */
export function contentsMemory({ value: fd }: OwnedFd): LastingMemory {
  return {
    bytes: fstatSync(fd).size,
    map(offset, length) {
      const { mapping, view } = map(fd, offset, length);
      return { bytes: new Uint8Array(view), close: () => mapping.unmap() };
    },
    discard(start, end) {
      fallocate(fd, PUNCH_HOLE, start, end - start);
    },
  };
}

function map(fd: Fd, offset: number, bytes: number): { mapping: Mapping; view: ArrayBuffer } {
  const mapping = Mapping.map(fd, bytes, offset);
  const view = mapping.view(mapping.address, bytes);
  leaveUncounted(view);
  return { mapping, view };
}
