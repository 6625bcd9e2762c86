import assert from 'node:assert/strict';
import type { Backend, Logger } from '../../core/backend/index.js';
import { Session, type SessionOptions } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { Export, type ExportOptions } from '../../core/state/index.js';
import { FuseClient } from './fuse-client.js';
import { Loopback } from './loopback.js';

/** A logger that keeps its lines. */
export class MemoryLog implements Logger {
  readonly lines: { level: string; message: string; fields: object }[] = [];

  debug(fields: object, message: string): void {
    this.lines.push({ level: 'debug', message, fields });
  }

  info(fields: object, message: string): void {
    this.lines.push({ level: 'info', message, fields });
  }

  warn(fields: object, message: string): void {
    this.lines.push({ level: 'warn', message, fields });
  }

  error(fields: object, message: string): void {
    this.lines.push({ level: 'error', message, fields });
  }

  get errors(): string[] {
    return this.lines.filter((line) => line.level === 'error').map((line) => line.message);
  }
}

/** A guest's kernel, in this process. */
export interface Guest {
  readonly session: Session;
  readonly loopback: Loopback;
  readonly client: FuseClient;
}

/** A mounted backend and its log. */
export interface Engine {
  readonly export: Export;
  readonly log: MemoryLog;
  /** Connects a guest; it has not sent INIT. */
  guest(options?: SessionOptions): Guest;
}

export async function engine(
  backend: Backend,
  options: Omit<ExportOptions, 'log' | 'createBuffer'> = {},
): Promise<Engine> {
  const log = new MemoryLog();
  const shared = await Export.open(backend, { ...options, log, createBuffer: hostBuffer });
  return {
    export: shared,
    log,
    guest(sessionOptions) {
      const session = new Session(shared, sessionOptions);
      const loopback = new Loopback(session);
      return { session, loopback, client: new FuseClient(loopback) };
    },
  };
}

/** Lets a guest use a backend. Nothing of that may be an error in its log. */
export async function withGuest(backend: Backend, use: (client: FuseClient) => Promise<void>): Promise<void> {
  const running = await engine(backend);
  const { client, session } = running.guest();
  await client.init();
  await use(client);
  await session.close();
  await running.export.close();
  assert.deepEqual(running.log.errors, []);
}
