import { createCipheriv, createDecipheriv, createHmac, timingSafeEqual } from 'node:crypto';
import { decodeName, NAME_MAX, nameBytes } from '../../backend/index.js';
import type { Keys } from './keys.js';

const TAG_BYTES = 16;

/** What long names begin with, and the links that have their text. No other name has a dot. */
const LONG = 'l.';
const TEXT_OF_LONG = 't.';

/** A name in the inner backend. */
export interface SealedName {
  readonly name: string;
  /** Of a name that is too long when it is encrypted: the link beside it, and its target. */
  readonly text?: { readonly name: string; readonly target: string };
}

/**
 * Names are encrypted so that the same one always gives the same: the construction of SIV (RFC
 * 5297) with HMAC-SHA256 and AES-256-CTR, written in base64url. What does not fit into 255 bytes
 * then gets the name's HMAC for a name, and its text is the target of a symbolic link beside it.
 */
export class Names {
  readonly #keys: Keys;

  constructor(keys: Keys) {
    this.#keys = keys;
  }

  seal(name: string): SealedName {
    const text = nameBytes(name);
    const tag = this.#tag(text);
    const cipher = createCipheriv('aes-256-ctr', this.#keys.names, tag);
    const sealed = Buffer.concat([tag, cipher.update(text)]).toString('base64url');
    if (sealed.length <= NAME_MAX) return { name: sealed };
    const short = createHmac('sha256', this.#keys.nameTags).update('long').update(text).digest('base64url');
    return { name: LONG + short, text: { name: TEXT_OF_LONG + short, target: sealed } };
  }

  /** @returns undefined for what is no name that was encrypted with this key. */
  open(sealed: string): string | undefined {
    const bytes = Buffer.from(sealed, 'base64url');
    if (bytes.length <= TAG_BYTES || bytes.toString('base64url') !== sealed) return undefined;
    const tag = bytes.subarray(0, TAG_BYTES);
    const text = createDecipheriv('aes-256-ctr', this.#keys.names, tag).update(bytes.subarray(TAG_BYTES));
    return timingSafeEqual(this.#tag(text), tag) ? decodeName(text) : undefined;
  }

  #tag(text: Uint8Array): Buffer {
    return createHmac('sha256', this.#keys.nameTags).update(text).digest().subarray(0, TAG_BYTES);
  }
}

/** The link that has the text of a long name; undefined for other names. */
export function textNameOf(sealed: string): string | undefined {
  return sealed.startsWith(LONG) ? TEXT_OF_LONG + sealed.slice(LONG.length) : undefined;
}

/** Whether it is the link that has a long name's text. */
export function isTextName(sealed: string): boolean {
  return sealed.startsWith(TEXT_OF_LONG);
}
