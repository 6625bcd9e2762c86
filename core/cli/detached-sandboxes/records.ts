import { Writable } from 'node:stream';
import type { Logger } from '../../backend/index.js';

/** Most bytes of one guest's console in the log of a process. */
const MOST_CONSOLE_BYTES = 16 << 20;

/** A log whose lines tell which sandbox they are of. */
export function namedLog(log: Logger, sandbox: string): Logger {
  return {
    debug: (fields, message) => log.debug({ sandbox, ...fields }, message),
    info: (fields, message) => log.info({ sandbox, ...fields }, message),
    warn: (fields, message) => log.warn({ sandbox, ...fields }, message),
    error: (fields, message) => log.error({ sandbox, ...fields }, message),
  };
}

/** Passes on what a guest's console says, up to a limit, since the guest decides how much it is. */
export function consoleOf(to: Writable): Writable {
  let left = MOST_CONSOLE_BYTES;
  return new Writable({
    write(bytes: Buffer, _encoding, done) {
      const part = bytes.subarray(0, left);
      left -= part.length;
      if (part.length === 0) done();
      else to.write(part, () => done());
    },
  });
}
