import { performance } from 'node:perf_hooks';
import { OPCODE_END } from '../wire/abi.js';
import { Busiest } from './busiest.js';

/** One past the largest errno that is counted separately; larger ones count as the last. */
const ERRNO_END = 134;

/**
 * Upper bounds of the latency histogram's buckets, in microseconds; one more bucket has what took
 * longer.
 */
export const LATENCY_BOUNDS_US: readonly number[] = [
  5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
  1_000_000, 5_000_000, 30_000_000,
];

/** Buckets of one opcode. */
export const LATENCY_BUCKETS = LATENCY_BOUNDS_US.length + 1;

/** One request of so many is timed, since a look at the clock costs 40 ns. */
export const TIMED_ONE_OF = 16;

/** Figures for monitoring: plain numbers that only grow. Sessions of one export may share them. */
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
  /**
   * Timed requests by opcode and bucket: that of opcode `o` and bucket `b` is at
   * `o * LATENCY_BUCKETS + b`.
   */
  readonly latencies = new Float64Array(OPCODE_END * LATENCY_BUCKETS);
  /** Microseconds of the timed requests, summed by opcode. */
  readonly latencySum = new Float64Array(OPCODE_END);
  /** How often requests were taken from a ring, or a mount's descriptor, whatever their number. */
  batches = 0;
  /** Files of timed requests, by the halves of their node ids. */
  readonly files = new Busiest();
  /** Processes that made timed requests, by their numbers and their guests' (sessions'). */
  readonly processes = new Busiest();
  /** Requests that queue threads answered with an error. Their opcode and errno are not known. */
  threadFailures = 0;
  /** Messages too short for a request's header, or without room for a reply's. */
  unanswerable = 0;
  /** Locks that could not be had again after a restart or at the destination of a migration. */
  lostLocks = 0;
  /** Requests that began later than they came, since their export's rate is limited. */
  heldBack = 0;
  /** Milliseconds that they have waited. */
  heldBackMs = 0;
  /** Unexpected exceptions, which are mistakes in the backend. */
  faults = 0;

  #untimed = 0;

  /** A request begins. @returns when, in milliseconds of `performance.now()`; 0: not timed. */
  begin(): number {
    if (++this.#untimed < TIMED_ONE_OF) return 0;
    this.#untimed = 0;
    return performance.now();
  }

  /** A timed request has ended. @param began what {@link begin} returned. */
  time(opcode: number, began: number): void {
    const microseconds = (performance.now() - began) * 1000;
    this.latencySum[opcode] = this.latencySum[opcode]! + microseconds;
    let bucket = 0;
    while (bucket < LATENCY_BOUNDS_US.length && microseconds > LATENCY_BOUNDS_US[bucket]!) bucket += 1;
    const at = opcode * LATENCY_BUCKETS + bucket;
    this.latencies[at] = this.latencies[at]! + 1;
  }

  /** @param length as `Operation.finish` returns. */
  count(opcode: number, length: number): void {
    this.requests[opcode] = this.requests[opcode]! + 1;
    if (length >= 0) return;
    this.failures[opcode] = this.failures[opcode]! + 1;
    const errno = Math.min(-length, ERRNO_END - 1);
    this.errors[errno] = this.errors[errno]! + 1;
  }
}
