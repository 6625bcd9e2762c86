import { OPCODE_END } from '../wire/abi.js';

/** One past the largest errno that is counted separately; larger ones count as the last. */
const ERRNO_END = 134;

/** A session's figures for monitoring: plain numbers that only grow. */
export class Counters {
  /** Requests answered, by opcode; 0 for unknown opcodes. */
  readonly requests = new Float64Array(OPCODE_END);
  /** How many of these were answered with an error, by opcode. */
  readonly failures = new Float64Array(OPCODE_END);
  /** Errors, by errno as the backend gave it (guests get ENFILE for EMFILE). */
  readonly errors = new Float64Array(ERRNO_END);
  /** Bytes of file data. */
  bytesRead = 0;
  bytesWritten = 0;
  /** Messages too short for a request's header, or without room for a reply's. */
  unanswerable = 0;
  /** Unexpected exceptions, which are mistakes in the backend. */
  faults = 0;

  /** @param length as `Operation.finish` returns. */
  count(opcode: number, length: number): void {
    this.requests[opcode] = this.requests[opcode]! + 1;
    if (length >= 0) return;
    this.failures[opcode] = this.failures[opcode]! + 1;
    const errno = Math.min(-length, ERRNO_END - 1);
    this.errors[errno] = this.errors[errno]! + 1;
  }
}
