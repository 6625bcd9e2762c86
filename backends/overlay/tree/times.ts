import type { Attributes, Time } from '../../../core/backend/index.js';

/** The attribute changes that set access and modification time to those of another file. */
export function timesOf(attributes: Attributes): { readonly atime: Time; readonly mtime: Time } {
  const { atime = 0, mtime = 0 } = attributes;
  return {
    atime: { seconds: Math.floor(atime), nanoseconds: attributes.atimeNsec ?? fraction(atime) },
    mtime: { seconds: Math.floor(mtime), nanoseconds: attributes.mtimeNsec ?? fraction(mtime) },
  };
}

function fraction(seconds: number): number {
  return Math.min(Math.floor((seconds - Math.floor(seconds)) * 1e9), 999_999_999);
}
