import { FileType, FsError, OpenFlags, serve } from 'virtiofs-kit';
import type { Attributes, Backend, GuestBuffer, Opened } from 'virtiofs-kit';

/*
 * A program that serves its own state: a guest reads `uptime`, and what it writes to `say` the
 * program prints.
 *
 *     node embedded.js /tmp/embedded.sock &
 *     virtiofs-kit guest --socket-path /tmp/embedded.sock -- \
 *       sh -c 'cat /mnt/uptime; echo hello > /mnt/say'
 */

interface Node {
  readonly mode: number;
  /** Makes the content for a reader, when the file is opened. */
  text?(): string;
  /** Gets the text that a writer writes. */
  take?(text: string): void;
}

const files = new Map<string, Node>([
  ['uptime', { mode: FileType.REGULAR | 0o444, text: () => `${process.uptime().toFixed(3)} seconds\n` }],
  ['say', { mode: FileType.REGULAR | 0o222, take: (text) => void process.stdout.write(text) }],
]);
const root: Node = { mode: FileType.DIRECTORY | 0o555 };

const backend: Backend<Node, Uint8Array> = {
  mount: () => root,
  lookup: (_parent, name) => {
    const node = files.get(name);
    return node && { node, attributes: { mode: node.mode } };
  },
  getattr: (node): Attributes => ({ mode: node.mode }),
  // A shell truncates what it writes to; there is nothing to truncate.
  setattr: (node): Attributes => ({ mode: node.mode }),
  readdir: () => [...files].map(([name, { mode }]) => ({ name, type: mode & FileType.MASK })),
  // The size is not known before the file is opened, as in /proc. With direct I/O the guest reads
  // until there is no more.
  open: (node, flags): Opened<Uint8Array> => {
    const writes = (flags & OpenFlags.ACCESS_MODE) !== OpenFlags.READ_ONLY;
    if (writes ? node.take === undefined : node.text === undefined) throw FsError.of('EACCES');
    return { file: Buffer.from(writes ? '' : node.text!()), directIo: true };
  },
  read: (_node, file, buffer: GuestBuffer, offset) => {
    const part = file.subarray(offset, offset + buffer.length);
    buffer.put(0, part);
    return part.length;
  },
  write: (node, _file, buffer: GuestBuffer) => {
    node.take!(buffer.segments.map((segment) => Buffer.from(segment).toString()).join(''));
    return buffer.length;
  },
};

const socket = process.argv[2] ?? '/tmp/embedded.sock';
const daemon = await serve({ socket, tag: 'embedded', backend });
process.stdout.write(`serving on ${socket}\n`);
process.once('SIGTERM', () => void daemon.close()).once('SIGINT', () => void daemon.close());
