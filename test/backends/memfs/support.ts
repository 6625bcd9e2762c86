import type { BackendHost, Context, HostBuffer } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/index.js';

/** A buffer with this content, or of this length. */
export function bufferOf(content: string | Uint8Array | number): HostBuffer {
  if (typeof content === 'number') return hostBuffer(content);
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  const buffer = hostBuffer(bytes.length);
  buffer.put(0, bytes);
  return buffer;
}

const never = new AbortController().signal;

/** A caller; root without a umask unless told otherwise. */
export function caller(as: Partial<Context> = {}): Context {
  return { uid: 0, gid: 0, pid: 1, umask: 0, groups: [], securityContext: undefined, signal: never, ...as };
}

const silent = (): void => undefined;

export const host: BackendHost = {
  log: { debug: silent, info: silent, warn: silent, error: silent },
  createBuffer: hostBuffer,
};
