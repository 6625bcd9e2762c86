import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { PassThrough, type Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Logger, nameBytes, UsageError } from '../../backend/index.js';
import { createLogger } from '../../plugins/logger.js';
import { Sandbox, type SandboxCommand } from '../../sandbox/index.js';
import { FrameKind, frames, type Request, requestSchema, send, startRequestSchema } from './frames.js';
import { MemoryGuard } from './memory-guard.js';
import { connectTo, sandboxPlace, TakenPlace } from './places.js';
import { consoleOf, namedLog } from './records.js';
import { lineOf, tellDifferences } from './told-changes.js';
import type { StartOptions } from './start-options.js';
import { show } from './visit.js';

/** Most bytes of a file that is written as a whole. */
const MOST_FILE_BYTES = 256 << 20;

/** How often, and how far apart, a name is tried that a killed process may have left. */
const CLAIM_TRIES = 20;
const CLAIM_MS = 50;

/** How long a process waits for the first sandbox, whose command line may be gone. */
const FIRST_MS = 30_000;

/** A sandbox that others use by its name. */
interface Held {
  readonly box: Sandbox;
  /** What it shared with another one when it was started. */
  readonly inherited: ReturnType<Sandbox['usage']>;
  readonly server: Server;
  readonly place: TakenPlace;
}

/** Holds the sandboxes of many command lines, which come and go, until each has been removed. */
export class SandboxHolder {
  readonly #held = new Map<string, Held>();
  readonly #commands = new Map<number, SandboxCommand>();
  readonly #server = createServer((socket) => void this.#take(socket));
  readonly #guard: MemoryGuard;
  /** Sandboxes that are being started. */
  #starting = 0;
  #isClosed = false;
  #count = 0;
  #resolveEmpty = (): void => {};
  /** Resolves when there is no sandbox any more. No other is started then. */
  readonly empty = new Promise<void>((resolve) => {
    this.#resolveEmpty = resolve;
  });

  /** @param log of the process. */
  constructor(log: Logger) {
    this.#guard = new MemoryGuard(this.#held, log);
  }

  /** Takes sandboxes to start, at a socket. */
  async listen(path: string): Promise<void> {
    await once(this.#server.listen(path), 'listening');
    setTimeout(() => this.#endIfEmpty(), FIRST_MS).unref();
  }

  /** Ends all sandboxes. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#guard[Symbol.dispose]();
    this.#server.close();
    await Promise.all([...this.#held.values()].map(({ box }) => box.stop()));
  }

  #endIfEmpty(): void {
    if (this.#held.size + this.#starting > 0) return;
    this.#isClosed = true;
    this.#server.close();
    this.#resolveEmpty();
  }

  /** Starts a sandbox for whoever has connected. */
  async #take(socket: Socket): Promise<void> {
    socket.on('error', () => socket.destroy());
    let isTaken = false;
    try {
      const first = await frames(socket).next();
      // Whoever gets no answer at all asks another process.
      if (first.done === true || this.#isClosed) return;
      const { name, options } = startRequestSchema.parse(JSON.parse(first.value.payload.toString()));
      this.#starting += 1;
      isTaken = true;
      await send(socket, FrameKind.STARTED, '0');
      await this.#start(name, options, socket);
      await send(socket, FrameKind.RESULT, '0');
    } catch (error) {
      await send(socket, FrameKind.ERROR, error instanceof Error ? error.message : String(error));
    } finally {
      if (isTaken) this.#starting -= 1;
      this.#endIfEmpty();
      socket.end();
    }
  }

  async #start(name: string, options: StartOptions, socket: Socket): Promise<void> {
    const place = await claim(name);
    // Nobody waits for it any more.
    const gone = new AbortController();
    const abort = (): void => gone.abort(new Error('the command line has gone'));
    socket.once('close', abort);
    try {
      const { publish, console: hasConsole, log: config, ...rest } = options;
      const log = namedLog(createLogger(config), name);
      const box = await Sandbox.start({
        ...rest,
        console: hasConsole ? consoleOf(process.stderr) : undefined,
        signal: gone.signal,
        log,
      });
      try {
        for (const { port, hostPort } of publish) await publishPort(box, port, hostPort);
        await this.#hold(name, place, box);
      } catch (error) {
        await box.stop();
        throw error;
      }
    } catch (error) {
      place.leave();
      throw error;
    } finally {
      socket.off('close', abort);
    }
  }

  /** Has a sandbox used by a name. */
  async #hold(name: string, place: TakenPlace, box: Sandbox): Promise<void> {
    const server = createServer((socket) => void this.#serve(box, socket));
    await once(server.listen(place.socket), 'listening');
    this.#held.set(name, { box, inherited: box.usage(), server, place });
    void box.ended.then(() => this.#forget(name));
  }

  #forget(name: string): void {
    const held = this.#held.get(name);
    held?.server.close();
    held?.place.leave();
    this.#held.delete(name);
    this.#endIfEmpty();
  }

  async #fork(box: Sandbox, names: readonly string[]): Promise<void> {
    const places: TakenPlace[] = [];
    const forks: Sandbox[] = [];
    try {
      for (const name of names) places.push(await claim(name));
      forks.push(...(await box.fork(names.length)));
      for (const name of names) await this.#hold(name, places.shift()!, forks.shift()!);
    } catch (error) {
      await Promise.all(forks.map((fork) => fork.stop()));
      for (const place of places) place.leave();
      throw error;
    }
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
      case 'fork':
        await this.#fork(box, request.names);
        return 0;
      case 'publish': {
        const port = await publishPort(box, request.port, request.hostPort);
        await send(socket, FrameKind.STDOUT, `${port}\n`);
        return 0;
      }
      case 'diff':
        await tellDifferences(box, request, outputTo(socket));
        return 0;
      case 'merge': {
        const fork = this.#held.get(request.fork);
        if (fork === undefined) throw new UsageError(`${request.fork}: no fork of this sandbox`);
        for (const change of await box.merge(fork.box)) await send(socket, FrameKind.STDOUT, lineOf(change));
        return 0;
      }
      case 'watch': {
        const gone = new AbortController();
        socket.once('close', () => gone.abort());
        void discard(incoming);
        for await (const event of box.watch(request.path, { signal: gone.signal }))
          await send(socket, FrameKind.STDOUT, lineOf(event));
        return 0;
      }
      case 'read':
        await pipeline(box.files.readStream(request.path), outputTo(socket));
        return 0;
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

/** Takes a name. @throws UsageError if another sandbox has it. */
async function claim(name: string): Promise<TakenPlace> {
  const place = sandboxPlace(name);
  for (let tries = 0; tries < CLAIM_TRIES; tries++) {
    const taken = TakenPlace.take(place);
    if (taken !== undefined) return taken;
    const other = await connectTo(place);
    other?.destroy();
    if (other !== undefined) break;
    // It is being started, or swept.
    await sleep(CLAIM_MS);
  }
  throw new UsageError(`${name}: there is a sandbox of that name`);
}

/** @returns the port of this host. @throws UsageError for one that is none, or is in use. */
export async function publishPort(box: Sandbox, port: number, hostPort: number): Promise<number> {
  try {
    return await box.publish(port, hostPort);
  } catch (error) {
    throw new UsageError(`publish ${hostPort}:${port}: ${(error as Error).message}`, { cause: error });
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

/** What is written to it goes to the command line, at its speed; it breaks when that has gone. */
function outputTo(socket: Socket): Writable {
  const output = new Writable({
    write: (bytes: Buffer, _encoding, done) =>
      void send(socket, FrameKind.STDOUT, bytes).then(() => done(), done),
  });
  socket.once('close', () => output.destroy());
  return output;
}

async function pass(from: Readable, socket: Socket, kind: number): Promise<void> {
  for await (const part of from as AsyncIterable<Buffer>) await send(socket, kind, part);
}
