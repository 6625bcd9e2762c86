import { EAGAIN } from '../system/calls/negative-errno.js';
import { type OwnedFd, UnixConnection, UnixListener, watch, type Watch } from '../system/index.js';

/*
 * What stands between User-Mode Linux and a daemon that takes QEMU's words only. Names of messages
 * are those of QEMU's `docs/interop/vhost-user.rst`.
 */

const HEADER_BYTES = 12;
/** More than any message of the protocol that a file system's device knows. */
const MAX_PAYLOAD_BYTES = 8192;
const SET_MEM_TABLE = 5;
const GET_PROTOCOL_FEATURES = 15;
const SET_PROTOCOL_FEATURES = 16;
const GET_CONFIG = 24;
/** Flags of a reply: version 1, VHOST_USER_REPLY. */
const REPLY_FLAGS = 0x5;
/** VHOST_USER_PROTOCOL_F_CONFIG, in the low word of the features. */
const CONFIG = 1 << 9;
/** Bytes of one region in a memory table, and of the number of regions before them. */
const REGION_BYTES = 32;
const TABLE_HEADER_BYTES = 8;
/** Bytes of a tag in `struct virtio_fs_config` (virtio 1.2, section 5.11.4). */
const TAG_BYTES = 36;

/** One message, whole. */
interface VhostUserMessage {
  readonly request: number;
  /** Header and payload. */
  readonly bytes: Buffer;
  readonly fds: readonly OwnedFd[];
}

/**
 * Lets User-Mode Linux use a daemon that serves QEMU: it connects to the daemon for each front-end
 * that connects to it, and passes every message on with its descriptors. Requests, interrupts and
 * guest memory go by those descriptors, so that nothing of a request passes through here.
 *
 * Two things differ from what QEMU says. User-Mode Linux reads the device's configuration by
 * GET_CONFIG, where QEMU makes it itself, with the share's tag: the relay answers, and tells
 * the guest of VHOST_USER_PROTOCOL_F_CONFIG and the daemon nothing. And its memory table is longer
 * than its regions: it is cut.
 */
export class UmlRelay implements Disposable {
  readonly #listener: UnixListener;
  readonly #watch: Watch;
  readonly #passages = new Set<Passage>();

  /**
   * @param path where User-Mode Linux connects.
   * @param target the daemon's socket.
   * @param tag of the share, at most 36 bytes.
   * @throws SystemError if nothing can listen at the path.
   */
  constructor(path: string, target: string, tag: string) {
    this.#listener = UnixListener.listen(path);
    this.#watch = watch(this.#listener.fd, () => {
      const frontEnd = this.#listener.accept();
      if (typeof frontEnd === 'number') return;
      try {
        const passage = new Passage(frontEnd, UnixConnection.connect(target), tag, () =>
          this.#passages.delete(passage),
        );
        this.#passages.add(passage);
      } catch {
        // Nobody serves there: the front-end sees its connection end.
        frontEnd.close();
      }
    });
  }

  [Symbol.dispose](): void {
    this.#watch.close();
    this.#listener.close();
    for (const passage of this.#passages) passage.close();
  }
}

/** One front-end and its connection to the daemon. */
class Passage {
  readonly #frontEnd: Side;
  readonly #daemon: Side;
  readonly #config: Buffer;
  readonly #onEnd: () => void;
  #closed = false;

  constructor(frontEnd: UnixConnection, daemon: UnixConnection, tag: string, onEnd: () => void) {
    this.#onEnd = onEnd;
    this.#config = Buffer.alloc(TAG_BYTES + 4);
    this.#config.write(tag, 0, TAG_BYTES);
    // num_request_queues: User-Mode Linux uses one.
    this.#config.writeUInt32LE(1, TAG_BYTES);
    const end = (): void => this.close();
    this.#frontEnd = new Side(frontEnd, (message) => this.#fromGuest(message), end);
    this.#daemon = new Side(daemon, (message) => this.#fromDaemon(message), end);
  }

  #fromGuest(message: VhostUserMessage): void {
    const { request, bytes } = message;
    if (request === GET_CONFIG) {
      this.#frontEnd.send({ request, bytes: this.#configReply(bytes), fds: [] });
      return;
    }
    if (request === SET_PROTOCOL_FEATURES && bytes.length >= HEADER_BYTES + 8)
      bytes.writeUInt32LE((bytes.readUInt32LE(HEADER_BYTES) & ~CONFIG) >>> 0, HEADER_BYTES);
    this.#daemon.send(request === SET_MEM_TABLE ? { ...message, bytes: cutTable(bytes) } : message);
  }

  #fromDaemon(message: VhostUserMessage): void {
    const { request, bytes } = message;
    if (request === GET_PROTOCOL_FEATURES && bytes.length >= HEADER_BYTES + 8) {
      bytes.writeUInt32LE((bytes.readUInt32LE(HEADER_BYTES) | CONFIG) >>> 0, HEADER_BYTES);
    }
    this.#frontEnd.send(message);
  }

  /** The asked part of `struct virtio_fs_config`, with zeros after it. */
  #configReply(asked: Buffer): Buffer {
    const reply = Buffer.from(asked);
    reply.writeUInt32LE(REPLY_FLAGS, 4);
    const content = reply.subarray(HEADER_BYTES + 12).fill(0);
    const offset = reply.length < HEADER_BYTES + 12 ? 0 : reply.readUInt32LE(HEADER_BYTES);
    this.#config.subarray(Math.min(offset, this.#config.length)).copy(content);
    return reply;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#frontEnd.close();
    this.#daemon.close();
    this.#onEnd();
  }
}

/** A memory table without what follows its regions. */
function cutTable(bytes: Buffer): Buffer {
  if (bytes.length < HEADER_BYTES + TABLE_HEADER_BYTES) return bytes;
  const length = TABLE_HEADER_BYTES + REGION_BYTES * bytes.readUInt32LE(HEADER_BYTES);
  if (HEADER_BYTES + length >= bytes.length) return bytes;
  const cut = Buffer.from(bytes.subarray(0, HEADER_BYTES + length));
  cut.writeUInt32LE(length, 8);
  return cut;
}

/** One of the two connections: whole messages in, whole messages out. */
class Side {
  readonly #connection: UnixConnection;
  readonly #watch: Watch;
  readonly #onMessage: (message: VhostUserMessage) => void;
  readonly #onEnd: () => void;
  readonly #piece = Buffer.alloc(HEADER_BYTES + MAX_PAYLOAD_BYTES);
  #held = Buffer.alloc(0);
  #fds: OwnedFd[] = [];

  constructor(connection: UnixConnection, onMessage: (message: VhostUserMessage) => void, onEnd: () => void) {
    this.#connection = connection;
    this.#onMessage = onMessage;
    this.#onEnd = onEnd;
    this.#watch = watch(connection.fd, () => this.#receive());
  }

  #receive(): void {
    const received = this.#connection.recv(this.#piece, this.#fds);
    if (received === EAGAIN) return;
    if (received <= 0) return this.#onEnd();
    this.#held = Buffer.concat([this.#held, this.#piece.subarray(0, received)]);
    while (this.#held.length >= HEADER_BYTES) {
      const size = this.#held.readUInt32LE(8);
      if (size > MAX_PAYLOAD_BYTES) return this.#onEnd();
      const end = HEADER_BYTES + size;
      if (this.#held.length < end) return;
      const bytes = Buffer.from(this.#held.subarray(0, end));
      this.#held = this.#held.subarray(end);
      const fds = this.#fds.splice(0);
      this.#onMessage({ request: bytes.readUInt32LE(0), bytes, fds });
      for (const fd of fds) fd.close();
    }
  }

  /** Sends a message. The other side waits for few of them, so that they always find room. */
  send({ bytes, fds }: VhostUserMessage): void {
    const values = fds.map(({ value }) => value);
    if (this.#connection.send(bytes, values) !== bytes.length) this.#onEnd();
  }

  close(): void {
    this.#watch.close();
    this.#connection.close();
    for (const fd of this.#fds.splice(0)) fd.close();
  }
}
