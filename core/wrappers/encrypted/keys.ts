import { createHmac, hkdfSync, randomBytes, scrypt, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { UsageError } from '../../backend/index.js';

/** Bytes of a key. */
export const KEY_BYTES = 32;

/** A new key, from the system's random numbers. */
export function newEncryptionKey(): Uint8Array {
  return randomBytes(KEY_BYTES);
}

/**
 * Reads a key from a file: 32 bytes, or 64 hexadecimal digits.
 * @throws UsageError if it cannot be read or has something else in it.
 */
export function readEncryptionKey(file: string): Uint8Array {
  let content: Buffer;
  try {
    content = readFileSync(file);
  } catch (error) {
    throw new UsageError(`key file ${file}: ${(error as Error).message}`, { cause: error });
  }
  if (content.length === KEY_BYTES) return content;
  const text = content.toString('latin1').trim();
  if (/^[0-9a-f]{64}$/i.test(text)) return Buffer.from(text, 'hex');
  throw new UsageError(`key file ${file}: neither 32 bytes nor 64 hexadecimal digits`);
}

/**
 * A key from a passphrase, by scrypt (N 2^17, r 8, p 1: about half a second and 128 MiB).
 * @param salt 16 bytes or more, kept beside the data. It is no secret.
 */
export async function encryptionKeyFrom(passphrase: string, salt: Uint8Array): Promise<Uint8Array> {
  const derive = promisify<string, Uint8Array, number, object, Buffer>(scrypt);
  return derive(passphrase, salt, KEY_BYTES, { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 });
}

/** The keys of one file system, all made of one by HKDF-SHA256 (RFC 5869). */
export class Keys {
  readonly #main: Uint8Array;
  readonly names: Buffer;
  readonly nameTags: Buffer;
  readonly links: Buffer;
  readonly xattrs: Buffer;

  /** @throws UsageError for a key of another length. */
  constructor(main: Uint8Array) {
    if (main.length !== KEY_BYTES)
      throw new UsageError(`the key has ${main.length} bytes: it must have ${KEY_BYTES}`);
    this.#main = Uint8Array.from(main);
    this.names = this.#derive('names');
    this.nameTags = this.#derive('name tags');
    this.links = this.#derive('links');
    this.xattrs = this.#derive('extended attributes');
  }

  /** The key of one file's content. */
  ofFile(id: Uint8Array): Buffer {
    return this.#derive('content', id);
  }

  /** What tells a key that was used from another. */
  get check(): Buffer {
    return createHmac('sha256', this.#derive('check')).update('virtiofs-kit').digest();
  }

  /** Whether what was kept is the check of this key. */
  isOwn(check: Uint8Array): boolean {
    const own = this.check;
    return check.length === own.length && timingSafeEqual(check, own);
  }

  #derive(purpose: string, salt: Uint8Array = new Uint8Array(0)): Buffer {
    return Buffer.from(hkdfSync('sha256', this.#main, salt, `virtiofs-kit ${purpose}`, KEY_BYTES));
  }
}
