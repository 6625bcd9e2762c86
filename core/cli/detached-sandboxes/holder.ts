import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { PassThrough, type Readable } from 'node:stream';
import { nameBytes, UsageError } from '../../backend/index.js';
import type { Sandbox, SandboxCommand } from '../../sandbox/index.js';
import { FrameKind, frames, type Request, requestSchema, send } from './frames.js';
import { connectTo, leave, socketOf } from './places.js';
import { show } from './visit.js';

/** Most bytes of a file that is read or written as a whole. */
const MOST_FILE_BYTES = 256 << 20;
const PIECE_BYTES = 1 << 20;

/** A sandbox that others use by its name. */
interface Held {
  readonly box: Sandbox;
  readonly server: Server;
}

/** Holds sandboxes for command lines that come and go, until each has been removed. */
export class SandboxHolder {
  readonly #held = new Map<string, Held>();
  readonly #commands = new Map<number, SandboxCommand>();
  #count = 0;
  #resolveEmpty = (): void => {};
  /** Resolves when there is no sandbox any more. */
  readonly empty = new Promise<void>((resolve) => {
    this.#resolveEmpty = resolve;
  });

  /** Has a sandbox used by a name. @throws UsageError if another one has it. */
  async hold(name: string, box: Sandbox): Promise<void> {
    const other = await connectTo(name);
    other?.destroy();
    if (other !== undefined) throw new UsageError(`${name}: there is a sandbox of that name`);
    const path = socketOf(name);
    rmSync(path, { force: true });
    const server = createServer((socket) => void this.#serve(box, socket));
    await once(server.listen(path), 'listening');
    this.#held.set(name, { box, server });
    void box.ended.then(() => this.#forget(name));
  }

  /** Ends all sandboxes. */
  async close(): Promise<void> {
    await Promise.all([...this.#held.values()].map(({ box }) => box.stop()));
  }

  #forget(name: string): void {
    this.#held.get(name)?.server.close();
    this.#held.delete(name);
    leave(name);
    if (this.#held.size === 0) this.#resolveEmpty();
  }

  async #serve(box: Sandbox, socket: Socket): Promise<void> {
    socket.on('error', () => socket.destroy());
    const incoming = frames(socket);
    try {
      const first = await incoming.next();
      if (first.done === true) return;
      const request = requestSchema.parse(JSON.parse(first.value.payload.toString()));
      const exitCode = await this.#carryOut(request, box, socket, incoming);
      await send(socket, FrameKind.RESULT, String(exitCode));
    } catch (error) {
      await send(socket, FrameKind.ERROR, error instanceof Error ? error.message : String(error));
    } finally {
      socket.end();
    }
  }

  async #carryOut(
    request: Request,
    box: Sandbox,
    socket: Socket,
    incoming: ReturnType<typeof frames>,
  ): Promise<number> {
    switch (request.command) {
      case 'exec':
        return this.#exec(request, box, socket, incoming);
      case 'kill':
        await this.#commands.get(request.id)?.kill(request.signal as NodeJS.Signals);
        return 0;
      case 'resize':
        this.#commands.get(request.id)?.resize(request);
        return 0;
      case 'fork': {
        const forks = await box.fork(request.names.length);
        try {
          for (const [index, fork] of forks.entries()) await this.hold(request.names[index]!, fork);
        } catch (error) {
          await Promise.all(forks.map((fork) => fork.stop()));
          throw error;
        }
        return 0;
      }
      case 'diff':
        for (const { kind, path } of await box.diff())
          await send(socket, FrameKind.STDOUT, `${kind} ${path}\n`);
        return 0;
      case 'merge': {
        const fork = this.#held.get(request.fork);
        if (fork === undefined) throw new UsageError(`${request.fork}: no fork of this sandbox`);
        for (const { kind, path } of await box.merge(fork.box))
          await send(socket, FrameKind.STDOUT, `${kind} ${path}\n`);
        return 0;
      }
      case 'watch': {
        const gone = new AbortController();
        socket.once('close', () => gone.abort());
        void discard(incoming);
        for await (const { kind, path } of box.watch(request.path, { signal: gone.signal }))
          await send(socket, FrameKind.STDOUT, `${kind} ${path}\n`);
        return 0;
      }
      case 'read': {
        const content = await box.files.readFile(request.path, MOST_FILE_BYTES);
        for (let at = 0; at < content.length; at += PIECE_BYTES)
          await send(socket, FrameKind.STDOUT, content.subarray(at, at + PIECE_BYTES));
        return 0;
      }
      case 'write':
        await send(socket, FrameKind.STARTED, '0');
        await box.files.writeFile(request.path, await inputOf(incoming));
        return 0;
      case 'list':
        for (const { name } of await box.files.readdir(request.path))
          await send(socket, FrameKind.STDOUT, Buffer.from(nameBytes(`${name}\n`)));
        return 0;
      case 'export':
        await box.export(request.file);
        return 0;
      case 'commit':
        await box.commit(request.directory, request.tag);
        return 0;
      case 'rm':
        await box.stop();
        return 0;
    }
  }

  async #exec(
    request: Request & { readonly command: 'exec' },
    box: Sandbox,
    socket: Socket,
    incoming: ReturnType<typeof frames>,
  ): Promise<number> {
    const stdin = new PassThrough();
    const { env, user, cwd, tty } = request;
    const words = request.words.length === 0 ? ['sh'] : request.words;
    const command = await box.spawn(words, { env, user, cwd, tty, stdin });
    const id = (this.#count += 1);
    this.#commands.set(id, command);
    // Whoever has started it has gone: it is told as by a terminal that is closed.
    socket.once('close', () => void command.kill('SIGHUP'));
    try {
      await send(socket, FrameKind.STARTED, String(id));
      void feed(stdin, incoming);
      const outputs = [
        pass(command.stdout, socket, FrameKind.STDOUT),
        pass(command.stderr, socket, FrameKind.STDERR),
      ];
      const code = await command.exitCode;
      await Promise.all(outputs);
      return code;
    } finally {
      this.#commands.delete(id);
      stdin.destroy();
    }
  }
}

/** All input. @throws UsageError if it is too long, or breaks off. */
async function inputOf(incoming: ReturnType<typeof frames>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let length = 0;
  // A loop by `for await` would close the connection at its end.
  for (let next = await incoming.next(); next.done !== true; next = await incoming.next()) {
    const { kind, payload } = next.value;
    if (kind !== FrameKind.INPUT) continue;
    if (payload.length === 0) return Buffer.concat(pieces);
    length += payload.length;
    if (length > MOST_FILE_BYTES) throw new UsageError(`more than ${MOST_FILE_BYTES} bytes: use --share`);
    pieces.push(payload);
  }
  throw new UsageError('the input has broken off');
}

/** Gives a command the input that comes. */
async function feed(stdin: PassThrough, incoming: ReturnType<typeof frames>): Promise<void> {
  try {
    for await (const { kind, payload } of incoming) {
      if (kind !== FrameKind.INPUT) continue;
      if (payload.length === 0) stdin.end();
      else await show(stdin, payload);
    }
  } catch {
    // The connection has broken, which its `close` tells.
  }
}

/** Reads on, so that the end of a connection is noticed. */
async function discard(incoming: ReturnType<typeof frames>): Promise<void> {
  try {
    while ((await incoming.next()).done !== true);
  } catch {
    // It has broken, which its `close` tells.
  }
}

async function pass(from: Readable, socket: Socket, kind: number): Promise<void> {
  for await (const part of from as AsyncIterable<Buffer>) await send(socket, kind, part);
}
