import { unlink } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { Server } from 'node:net';
import { join } from 'node:path';
import { UsageError } from '../../../core/backend/index.js';

/** Longest request line in bytes. */
const LINE_MAX_BYTES = 1024;
/** Milliseconds until an answer must have come. A flush may take long. */
const ANSWER_TIMEOUT_MS = 600_000;

/** The commands that a running mount answers. */
export interface Commands {
  status(): Promise<object>;
  flush(): Promise<object>;
}

function socketPath(folder: string): string {
  return join(folder, 'control.sock');
}

/**
 * The socket by which `virtiofs-kit s3` talks to the process that has a cache folder mounted. It is
 * also the folder's lock: while a process answers there, no other may use the folder.
 */
export class Control {
  readonly #server: Server;
  readonly #folder: string;

  private constructor(server: Server, folder: string) {
    this.#server = server;
    this.#folder = folder;
  }

  /** @throws UsageError if another process uses the folder. */
  static async listen(folder: string, commands: Commands): Promise<Control> {
    const path = socketPath(folder);
    if ((await ask(folder, 'ping')) !== undefined) {
      throw new UsageError(`cacheDir ${folder}: another process has it mounted; give each mount its own`);
    }
    await unlink(path).catch(() => undefined);
    const server = createServer((socket) => {
      let line = '';
      socket.setEncoding('utf8');
      socket.on('error', () => socket.destroy());
      socket.on('data', (text: string) => {
        line += text;
        if (line.length > LINE_MAX_BYTES) socket.destroy();
        if (!line.endsWith('\n')) return;
        void answer(line.trim(), commands).then((result) => socket.end(`${JSON.stringify(result)}\n`));
      });
    });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    server.unref();
    return new Control(server, folder);
  }

  async close(): Promise<void> {
    await new Promise((resolve) => this.#server.close(resolve));
    await unlink(socketPath(this.#folder)).catch(() => undefined);
  }
}

async function answer(command: string, commands: Commands): Promise<object> {
  try {
    if (command === 'status') return await commands.status();
    if (command === 'flush') return await commands.flush();
    if (command === 'ping') return {};
    return { error: `no such command: ${command}` };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/**
 * Sends a command to the process that has a cache folder mounted.
 * @returns its answer, or undefined if there is no such process.
 */
export async function ask(folder: string, command: string): Promise<Record<string, unknown> | undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath(folder));
    let text = '';
    socket.setEncoding('utf8');
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy(new Error('the mount does not answer')));
    socket.once('connect', () => socket.write(`${command}\n`));
    socket.on('data', (chunk: string) => (text += chunk));
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(undefined);
      else reject(error);
    });
    socket.once('end', () =>
      resolve(text === '' ? undefined : (JSON.parse(text) as Record<string, unknown>)),
    );
  });
}
