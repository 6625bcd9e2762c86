import { createHash } from 'node:crypto';
import { Transform } from 'node:stream';
import { UsageError } from '../../backend/index.js';

/** The digest, and the number, of the bytes that pass a stream. */
export class Digest {
  /** Passes everything on. */
  readonly stream: Transform;
  size = 0;
  readonly #hash: ReturnType<typeof createHash>;
  readonly #algorithm: string;

  constructor(algorithm = 'sha256') {
    this.#algorithm = algorithm;
    this.#hash = createHash(algorithm);
    this.stream = new Transform({
      transform: (bytes: Buffer, _encoding, done) => {
        this.add(bytes);
        done(null, bytes);
      },
    });
  }

  /** Counts bytes in that do not pass the stream. */
  add(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.size += bytes.length;
  }

  /** For one with the algorithm of a digest. */
  static like(digest: string): Digest {
    return new Digest(digest.split(':')[0]);
  }

  /** The digest, as images have it. To be asked for once, at the end. */
  value(): string {
    return `${this.#algorithm}:${this.#hash.digest('hex')}`;
  }

  /** @throws UsageError if it is another digest. */
  check(expected: string): void {
    const found = this.value();
    if (found !== expected) throw new UsageError(`damaged: its digest is ${found}, not ${expected}`);
  }
}

/** The digest of bytes. */
export function digestOf(bytes: Uint8Array, algorithm = 'sha256'): string {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`;
}
