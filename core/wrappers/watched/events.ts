import { type Context, FsError, type GuestBuffer, nameBytes } from '../../backend/index.js';

/** Bytes of events that wait for one reader; what comes beyond is dropped and counted. */
const MOST_BYTES = 64 * 1024;

/** The events that one reader of the control file has not taken yet. */
export class EventQueue {
  /** Lines in the order of their events. One that waits already does not come twice. */
  readonly #lines = new Map<string, Uint8Array>();
  #bytes = 0;
  #wake: (() => void) | undefined;
  /** Events that were dropped. */
  dropped = 0;

  push(line: string): void {
    if (this.#lines.has(line)) return;
    const bytes = nameBytes(`${line}\n`);
    if (this.#bytes + bytes.length > MOST_BYTES) {
      this.dropped += 1;
      return;
    }
    this.#lines.set(line, bytes);
    this.#bytes += bytes.length;
    this.#wake?.();
  }

  /**
   * Reads whole lines, as many as fit. Waits for the first.
   * @throws EINTR where the reader gives up; EINVAL where the line does not fit.
   */
  async read(buffer: GuestBuffer, { signal }: Context): Promise<number> {
    if (this.#wake !== undefined) throw FsError.of('EAGAIN');
    if (this.#lines.size === 0) await this.#wait(signal);
    let at = 0;
    for (const [line, bytes] of this.#lines) {
      if (at + bytes.length > buffer.length) break;
      buffer.put(at, bytes);
      at += bytes.length;
      this.#lines.delete(line);
      this.#bytes -= bytes.length;
    }
    if (at === 0) throw FsError.of('EINVAL');
    return at;
  }

  #wait(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const end = (): void => {
        this.#wake = undefined;
        signal.removeEventListener('abort', abort);
        resolve();
      };
      const abort = (): void => {
        this.#wake = undefined;
        reject(FsError.of('EINTR'));
      };
      if (signal.aborted) return abort();
      this.#wake = end;
      signal.addEventListener('abort', abort, { once: true });
    });
  }
}

/** Characters of the paths that are remembered, and how many each counts beside its own. */
const MOST_CHARACTERS = 2 ** 20;
const OF_EACH = 100;

/** Things that were done, each for a time. Bounded: the oldest are dropped. */
export class Recent {
  readonly #ms: number;
  readonly #at = new Map<string, number>();
  #characters = 0;

  constructor(ms: number) {
    this.#ms = ms;
  }

  add(what: string): void {
    this.#drop(what);
    this.#at.set(what, performance.now());
    this.#characters += what.length + OF_EACH;
    while (this.#characters > MOST_CHARACTERS) {
      const [oldest] = this.#at.keys();
      this.#drop(oldest!);
    }
  }

  has(what: string): boolean {
    const at = this.#at.get(what);
    return at !== undefined && performance.now() - at < this.#ms;
  }

  take(what: string): boolean {
    const had = this.has(what);
    this.#drop(what);
    return had;
  }

  #drop(what: string): void {
    if (this.#at.delete(what)) this.#characters -= what.length + OF_EACH;
  }
}
