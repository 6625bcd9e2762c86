import { fstatSync } from 'node:fs';
import type { JournalMemory } from '../state/index.js';
import { type Fd, Mapping, memfd, type OwnedFd, Seal } from '../system/index.js';
import { fallocate } from '../system/calls/files.js';
import { leaveUncounted } from '../system/memory/v8-accounting.js';

/**
 * Bytes of a session journal. Only pages that were written take memory. A known file takes about
 * 72, twice while the journal is gathered anew.
 */
const JOURNAL_BYTES = 2 ** 29;

/** fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 3;

/** Memory for a session journal. The descriptor keeps it when this process is gone. */
export interface OwnedJournalMemory extends JournalMemory {
  readonly fd: OwnedFd;
  /** The memory is not used here any more. */
  close(): void;
}

/** Makes memory for a journal. @throws SystemError */
export function makeJournalMemory(): OwnedJournalMemory {
  const fd = memfd('virtiofs-kit sessions', JOURNAL_BYTES, Seal.SHRINK | Seal.GROW | Seal.SEAL);
  const { mapping, words } = map(fd.value, JOURNAL_BYTES);
  return {
    fd,
    words,
    discard(from, to) {
      fallocate(fd.value, PUNCH_HOLE, from * 4, (to - from) * 4);
    },
    close() {
      mapping.unmap();
      fd.close();
    },
  };
}

/** Stands for the memory of an export without a journal. @throws SystemError */
export function noJournal(): OwnedFd {
  return memfd('virtiofs-kit no sessions', 4);
}

/**
 * Reads the journal that a former process has left.
 * @throws RangeError, SystemError if that is not possible, and what `read` throws.
 */
export function withJournalMemory<T>({ value: fd }: OwnedFd, read: (memory: JournalMemory) => T): T {
  const { mapping, words } = map(fd, fstatSync(fd).size);
  try {
    return read({ words, discard: () => undefined });
  } finally {
    mapping.unmap();
  }
}

function map(fd: Fd, bytes: number): { mapping: Mapping; words: Int32Array } {
  const mapping = Mapping.map(fd, bytes, 0);
  const view = mapping.view(mapping.address, bytes);
  leaveUncounted(view);
  return { mapping, words: new Int32Array(view) };
}
