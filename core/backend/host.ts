import type { HostBuffer } from './buffer.js';

/** Where a backend says what happens; pino's loggers fit. */
export interface Logger {
  /** What only somebody who looks for a fault wants to see. Mostly not written anywhere. */
  debug(fields: object, message: string): void;
  /** What happened as it should: something began, ended, was saved. */
  info(fields: object, message: string): void;
  /** What the operator should look into; service goes on. */
  warn(fields: object, message: string): void;
  /** What failed. An exception goes into the fields as `err`. */
  error(fields: object, message: string): void;
}

/** What the engine offers a mounted backend. */
export interface BackendHost {
  /** The export's log. */
  readonly log: Logger;
  /**
   * Memory for I/O between backends (a copy-up), zeroed. Keep it and use it again; `close` gives it
   * back.
   * @param length bytes, 1 to 2^30.
   */
  createBuffer(length: number): HostBuffer;
}
