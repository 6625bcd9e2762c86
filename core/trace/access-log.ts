import { constants, openSync } from 'node:fs';
import { UsageError } from '../backend/index.js';
import { type Fd, Output, OwnedFd } from '../system/index.js';
import { filterOf, type TraceFilter } from './filter.js';
import { lostRequestsLine, requestLine } from './lines.js';
import { CaptureReader, type TracedRequest, type TraceEvent } from './reader.js';
import { RecordBuffer } from './record-buffer.js';
import type { TraceReader, Tracing } from './tracing.js';

const STDOUT = 1 as Fd;
/** Bytes of records that wait to be made lines. */
const RECORDS_WAITING_BYTES = 4 * 2 ** 20;
/** Bytes of lines that wait for whoever takes them. */
const LINES_WAITING_BYTES = 4 * 2 ** 20;
/** From the first request until it is in the log, in milliseconds, while there are few. */
const DELAY_MS = 100;
/** After so many milliseconds of making lines, requests get their turn. */
const TURN_MS = 2;
/** How long lines are made at the end, in milliseconds. */
const END_MS = 1000;

/**
 * Opens the file of an access log, to whose end lines are added. It is made if need be.
 * @param file a path, also of a pipe, or `-` for standard output.
 * @returns undefined for standard output.
 * @throws UsageError
 */
export function openAccessLog(file: string): OwnedFd | undefined {
  if (file === '-') return undefined;
  const { O_WRONLY, O_APPEND, O_CREAT, O_NONBLOCK, O_NOCTTY } = constants;
  try {
    return new OwnedFd(openSync(file, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, 0o640) as Fd);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why = code === 'ENXIO' ? 'a pipe that nobody reads' : message;
    throw new UsageError(`--access-log ${file}: ${why}`, { cause: error });
  }
}

/** Which requests have lines, and how those are, less their end. */
export interface LogForm {
  readonly shows: (one: TracedRequest) => boolean;
  readonly line: (one: TracedRequest) => string;
  /** Says that requests are missing, which came faster than they could be made lines. */
  readonly lostRequests: (count: number) => string;
  /** Says that lines are missing, for which there was no room. */
  readonly lostLines: (count: number) => string;
}

/** Lines for people. */
export function textForm(filter: TraceFilter): LogForm {
  return {
    shows: filterOf(filter),
    line: requestLine,
    lostRequests: lostRequestsLine,
    lostLines: (count) => `# ${count} lines are missing: there was no room for them`,
  };
}

/**
 * A line for each request, in a file. Lines are made together, between requests. Where they come
 * faster than they can be made or written, some are left out, and a line says how many.
 */
export class AccessLog {
  readonly #fd: OwnedFd | undefined;
  readonly #output: Output;
  readonly #form: LogForm;
  readonly #capture = new CaptureReader();
  readonly #tracing: Tracing;
  readonly #reader: TraceReader;
  /** What the piece tells that was taken last, as far as it has not been written. */
  #events: Iterator<TraceEvent, undefined> = [].values();
  #timer: NodeJS.Timeout | undefined;
  #turn: NodeJS.Immediate | undefined;

  /** @param fd where lines go, which is closed at the end; undefined for standard output. */
  constructor(fd: OwnedFd | undefined, form: LogForm, tracing: Tracing) {
    this.#fd = fd;
    this.#output = new Output(
      fd?.value ?? STDOUT,
      LINES_WAITING_BYTES,
      (count) => `${form.lostLines(count)}\n`,
    );
    this.#form = form;
    this.#tracing = tracing;
    this.#reader = { buffer: new RecordBuffer(RECORDS_WAITING_BYTES, () => this.#later()), data: false };
    tracing.open(this.#reader);
  }

  /** Writes what there is, as far as it can be done in a second, and ends. */
  close(): void {
    this.#tracing.close(this.#reader);
    clearTimeout(this.#timer);
    clearImmediate(this.#turn);
    this.#advance(performance.now() + END_MS);
    clearImmediate(this.#turn);
    let left = 0;
    while (this.#next() !== undefined) left += 1;
    if (left > 0) this.#output.write(`${this.#form.lostRequests(left)}\n`);
    this.#output.close();
    this.#fd?.close();
  }

  #later(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#advance(performance.now() + TURN_MS);
    }, DELAY_MS).unref();
  }

  #advance(until: number): void {
    this.#turn = undefined;
    let lines = '';
    let isLate = false;
    for (let event = this.#next(); event !== undefined; event = isLate ? undefined : this.#next()) {
      if ('lost' in event) lines += `${this.#form.lostRequests(event.lost)}\n`;
      else if (this.#form.shows(event)) lines += `${this.#form.line(event)}\n`;
      isLate = performance.now() >= until;
    }
    if (lines !== '') this.#output.write(lines);
    if (isLate) this.#turn = setImmediate(() => this.#advance(performance.now() + TURN_MS));
  }

  #next(): TraceEvent | undefined {
    for (;;) {
      const { done, value } = this.#events.next();
      if (done !== true) return value;
      const piece = this.#reader.buffer.take();
      if (piece === undefined) return undefined;
      this.#events = this.#capture.read(piece);
    }
  }
}
