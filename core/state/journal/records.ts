/**
 * The records of a session journal. Each sets something, whatever was before, so that a record may
 * be repeated. Numbers are 32-bit words; wide ones are two, the low half first. `session` is a
 * number of the journal's own.
 */
export const RecordType = {
  /** slot, id low, id high, generation, 0, what the backend's `trace` says, key */
  NODE: 1,
  /** session, slot, count (2) */
  COUNT: 2,
  /** session: all its counts are 0 */
  NO_COUNTS: 3,
  /**
   * session, connection, socket, number in the lock table, highest handle generation, and what INIT
   * agreed: present, minor, flags, flags2, maxReadahead, maxWrite, maxPages
   */
  SESSION: 4,
  /** session */
  SESSION_END: 5,
  /** session, index, generation, kind (`HandleKind`; FREE: closed), slot, flags */
  HANDLE: 6,
  /** session, handle index, first byte, bytes, complete, entries */
  LISTING: 7,
  /** slot, number in the lock table, kind, owner (2), type, start (2), end (2), pid, handle */
  LOCK: 8,
  /** slot, number of the descriptor that the keeper holds; 0 for none */
  HELD: 9,
  /** session, unique (2), and an {@link Intent} */
  INTENT: 10,
  /**
   * session, unique (2), place, and a {@link Verdict}. One with a place stands until the next of
   * that place; others until the request's answer.
   */
  VERDICT: 11,
  /**
   * session, unique (2), length, what of the answer is here (`AnswerKind`), and the answer. It ends
   * what a request has changed.
   */
  DONE: 12,
  /** Ends what something else than a request has changed. */
  BOUNDARY: 13,
  /** slot, what the backend's `trace` says of its node now */
  TRACE: 14,
  /**
   * session, unique (2), slot, count: COUNT and DONE of a request that can be carried out again.
   */
  GAVE: 15,
  /** session, unique (2), slot, count: COUNT and DONE of a request whose answer is empty. */
  TOOK: 16,
  /** session, unique (2), index, generation: HANDLE, closed, and DONE with an empty answer. */
  CLOSED: 17,
  /** session, unique (2), slot, size (2), length: INTENT of an append. */
  APPEND: 18,
} as const;

/** The least words of a record after its first one, by type. */
export const LEAST_WORDS: Readonly<Record<number, number>> = {
  [RecordType.NODE]: 7,
  [RecordType.COUNT]: 4,
  [RecordType.NO_COUNTS]: 1,
  [RecordType.SESSION]: 12,
  [RecordType.SESSION_END]: 1,
  [RecordType.HANDLE]: 6,
  [RecordType.LISTING]: 5,
  [RecordType.LOCK]: 12,
  [RecordType.HELD]: 2,
  [RecordType.INTENT]: 11,
  [RecordType.VERDICT]: 5,
  [RecordType.DONE]: 5,
  [RecordType.BOUNDARY]: 0,
  [RecordType.TRACE]: 2,
  [RecordType.GAVE]: 5,
  [RecordType.TOOK]: 5,
  [RecordType.CLOSED]: 5,
  [RecordType.APPEND]: 7,
};

/** What a DONE record has of the answer. */
export const AnswerKind = {
  /** Nothing: the request can be carried out again. */
  NONE: 0,
  REPLY: 1,
  /** Nothing: it is in the VERDICT record before, since it is not published at once. */
  BEFORE: 2,
} as const;

/** Kinds of locks in a LOCK record. */
export const LOCK_KINDS = ['posix', 'flock'] as const;

export const JOURNAL = { name: 'session journal', magic: 0x4a534656, version: 5, oldest: 3 } as const;
