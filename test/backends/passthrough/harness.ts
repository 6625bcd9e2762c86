import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Accelerator, acceleratorOf } from '../../../core/backend/accelerator.js';
import type { Backend, Context, GuestBuffer, Logger } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/host-buffer.js';
import { passthrough } from '../../../backends/passthrough/backend.js';
import type { Node } from '../../../backends/passthrough/nodes/nodes.js';
import type { OpenFile } from '../../../backends/passthrough/nodes/open-file.js';
import { options } from '../../../backends/passthrough/options.js';

/** A log that keeps its messages. */
export class Lines implements Logger {
  readonly lines: string[] = [];
  debug(_fields: object, message: string): void {
    this.lines.push(message);
  }
  info(_fields: object, message: string): void {
    this.lines.push(message);
  }
  warn(_fields: object, message: string): void {
    this.lines.push(message);
  }
  error(_fields: object, message: string): void {
    this.lines.push(message);
  }
}

export const root: Context = {
  uid: 0,
  gid: 0,
  pid: 1,
  umask: 0o022,
  groups: [],
  securityContext: undefined,
  signal: new AbortController().signal,
};

/** The methods of a share that is not read-only. */
export type Complete = Required<Backend<Node, OpenFile>>;

/** A backend that is mounted on a directory. `node` is its root. */
export interface Share {
  readonly directory: string;
  readonly backend: Complete;
  readonly accelerator: Required<Accelerator<Node, OpenFile>>;
  readonly node: Node;
  readonly log: Lines;
  close(): void;
}

/** Mounts a backend on a new directory below `where`, which `close` removes. */
export function serve(where: string, given: Record<string, unknown> = {}): Share {
  const directory = mkdtempSync(join(where, 'vfk-passthrough-'));
  const served = serveDirectory(directory, given);
  return {
    ...served,
    close() {
      served.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Mounts a backend on a directory that exists. */
export function serveDirectory(directory: string, given: Record<string, unknown> = {}): Share {
  const log = new Lines();
  const backend = passthrough(options.parse({ sharedDir: directory, ...given }), log) as Complete;
  const node = backend.mount({ log, createBuffer: hostBuffer }) as Node;
  return {
    directory,
    backend,
    accelerator: acceleratorOf(backend) as Required<Accelerator<Node, OpenFile>>,
    node,
    log,
    close: () => void backend.unmount(),
  };
}

/** A buffer that holds `content`. */
export function bufferOf(content: Uint8Array | string): GuestBuffer {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  const buffer = hostBuffer(Math.max(bytes.length, 1)).slice(0, bytes.length);
  buffer.put(0, bytes);
  return buffer;
}

/** The errno name that a call gives, or 'ok'. */
export async function outcome(call: () => unknown): Promise<string> {
  try {
    await call();
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}
