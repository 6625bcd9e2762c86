import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { FrontEndChannel, VhostUserServer, type ServerOptions } from '../../core/vhost-user/index.js';
import { encodeConfig, encodeVringState } from '../../core/vhost-user/messages.js';
import { UnixConnection } from '../../core/system/index.js';
import { EchoSession } from './echo-session.js';
import type { FuseTransport } from './fuse-client.js';
import { FrontEnd, type FrontEndOptions } from './front-end.js';

/** A folder that is removed when the test ends. @param parent below which it is made. */
export function temporaryFolder(t: TestContext, parent: string = tmpdir()): string {
  const folder = mkdtempSync(join(parent, 'virtiofs-kit-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Log lines by level, as `level: message reason`. */
export class LogLines {
  readonly lines: string[] = [];
  /** How many messages of front-ends were understood. */
  messages = 0;
  readonly debug = (): void => {
    this.messages += 1;
  };
  readonly info = this.#keep('info');
  readonly warn = this.#keep('warn');
  readonly error = this.#keep('error');

  #keep(level: string) {
    return (fields: object, message: string): void => {
      const { reason, err } = fields as { reason?: string; err?: Error };
      this.lines.push([`${level}: ${message}`, reason, err?.stack].filter(Boolean).join(' | '));
    };
  }

  /** Lines of warnings and errors. */
  get complaints(): string[] {
    return this.lines.filter((line) => !line.startsWith('info'));
  }
}

/**
 * Memory of a front-end of an echo server. Buffers over it count for V8 as its own, so that with
 * much of it collections take most of the time.
 */
const MEMORY_BYTES = 2 ** 20;

/** A server in this process whose sessions echo. */
export class EchoServer {
  readonly path: string;
  readonly sessions: EchoSession[] = [];
  readonly log = new LogLines();
  readonly server: VhostUserServer;

  private constructor(path: string, options: Partial<ServerOptions>) {
    this.path = path;
    this.server = VhostUserServer.start({
      socket: { path },
      tag: 'echo',
      requestQueues: 2,
      log: this.log,
      openSession: () => {
        const session = new EchoSession();
        this.sessions.push(session);
        return session;
      },
      ...options,
    });
  }

  static start(t: TestContext, options: Partial<ServerOptions> = {}): EchoServer {
    const echo = new EchoServer(join(temporaryFolder(t), 'socket'), options);
    t.after(() => echo.server.close());
    return echo;
  }

  /** The session of the newest connection. */
  get session(): EchoSession {
    return this.sessions.at(-1)!;
  }

  /** A front-end with everything set up. */
  async connect(t: TestContext, options: FrontEndOptions = {}): Promise<FrontEnd> {
    const frontEnd = await FrontEnd.connect(this.path, {
      requestQueues: 2,
      memory: MEMORY_BYTES,
      ...options,
    });
    t.after(() => frontEnd.close());
    return frontEnd;
  }

  /** A stream of messages, on which nothing has been negotiated. */
  channel(t: TestContext): FrontEndChannel {
    const channel = new FrontEndChannel(UnixConnection.connect(this.path), () => undefined);
    t.after(() => channel.end('the test ended'));
    return channel;
  }
}

/**
 * Carries FUSE requests over a front-end, with segments where Linux has them
 * (`fs/fuse/virtio_fs.c`).
 */
export function fuseTransport(frontEnd: FrontEnd): FuseTransport {
  return {
    request(queue, input, outSize) {
      const parts = [input.subarray(0, 40), input.subarray(40, 80), input.subarray(80)];
      const room = outSize === 0 ? [] : [16, outSize - 16];
      return frontEnd.request(
        queue,
        parts.filter((part) => part.length > 0),
        room.filter((length) => length > 0),
      );
    },
  };
}

/** Stops a queue when its requests have ended. @returns the next available index. */
export async function stopQueue({ channel }: FrontEnd, index: number): Promise<number> {
  const reply = await channel.call('GET_VRING_BASE', encodeVringState(index, 0));
  assert.equal(reply.length, 8);
  const view = new DataView(reply.buffer, reply.byteOffset);
  assert.equal(view.getUint32(0, true), index);
  return view.getUint32(4, true);
}

/** Reads a part of the configuration space. @returns nothing where the daemon refuses. */
export async function readConfig({ channel }: FrontEnd, offset: number, size: number): Promise<Uint8Array> {
  const reply = await channel.call('GET_CONFIG', encodeConfig(offset, 0, new Uint8Array(size)));
  assert.ok(reply.length === 0 || reply.length === 12 + size);
  return reply.subarray(12);
}

/** Descriptors that this process has open. */
export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

/** The descriptors that this process has open, each with what it refers to. */
export function descriptors(): ReadonlySet<string> {
  const open = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [`${fd} ${readlinkSync(`/proc/self/fd/${fd}`)}`];
    } catch {
      return []; // that of the directory itself, which is closed again
    }
  });
  return new Set(open);
}

/**
 * Descriptors that are open and were not then. What an earlier test left to be closed a little
 * later does not count.
 */
export function openedSince(then: ReadonlySet<string>): string[] {
  return [...descriptors()].filter((descriptor) => !then.has(descriptor));
}

/** How long {@link until} waits. A daemon takes many seconds to start on a busy machine. */
const PATIENCE_MS = 60_000;

/** Waits until a condition holds. @throws Error if it does not in a minute. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  for (const end = performance.now() + PATIENCE_MS; performance.now() < end;) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`waited in vain until ${what}`);
}
