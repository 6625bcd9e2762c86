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

/** A change that no guest has made through the engine. */
export interface NodeChange {
  /** A name and what it stands for came or went, or what is there is not what it was. */
  readonly kind: 'made' | 'removed' | 'content' | 'attributes';
  /** The name in the directory of which is told. Absent: the node itself, not `made`. */
  readonly name?: string;
}

/** What the engine offers a mounted backend. */
export interface BackendHost {
  /** The export's log. */
  readonly log: Logger;
  /**
   * Tells of a change behind the guests' back: to be called for nodes that are in use; others are
   * ignored. Returns at once and never throws. Host mounts drop what they have cached; guests see
   * it by `virtiofs-kit/wrappers`' `watched`. Absent: nobody wants to know.
   */
  changed?(node: object, change: NodeChange): void;
  /**
   * Memory for I/O between backends (a copy-up), zeroed. Keep it and use it again; `close` gives it
   * back.
   * @param length bytes, 1 to 2^30.
   */
  createBuffer(length: number): HostBuffer;
}
