import { randomBytes } from 'node:crypto';
import { constants } from 'node:os';
import { PassThrough, type Readable } from 'node:stream';
import { FsError, nameBytes, UsageError } from '../backend/index.js';
import { overlap } from '../guest/ports.js';
import {
  type CommandLine,
  commandScript,
  launchScript,
  pipedScript,
  terminalScript,
  type TerminalSize,
  terminalStartScript,
} from './agent.js';
import { Folder, Sink, Source, TextFile } from './control-share.js';
import { drained, type Messages, pass, StreamReader } from './pipes.js';
import { encodeInput, encodeSize, OutputDecoder } from './telnet.js';

/** How a command's input and output go. */
export interface CommandStreams {
  /** Its input. Undefined: none. */
  readonly input: Readable | undefined;
  /** The size of its terminal. Undefined: it has none, but pipes. */
  readonly terminal: TerminalSize | undefined;
}

/** What the guest tells of itself: a number of a few digits. */
const MAX_ANSWER_BYTES = 16;

/** A command that runs in a sandbox, or has ended. */
export class SandboxCommand {
  /** Its output, and with a terminal everything that it shows. It waits for whoever reads this. */
  readonly stdout: Readable;
  /** Its errors; empty with a terminal. */
  readonly stderr: Readable;
  /**
   * Resolves when it has ended, to its exit code, or 128 and the number of the signal that has
   * ended it. Processes that it has left live on. Rejects if the sandbox ends before.
   */
  readonly exitCode: Promise<number>;
  readonly #stdout: OutputPipe;
  readonly #stderr: OutputPipe;
  readonly #input: StreamReader | undefined;
  readonly #isTerminal: boolean;
  readonly #messages: Messages;
  #pid: string | undefined;
  /** Signals that came before the command has begun. */
  readonly #early: string[] = [];
  #over = (): void => {};
  #settle: { resolve: (code: number) => void; reject: (error: unknown) => void } | undefined;

  /** For {@link CommandRunner}. @param folder where its files are made. */
  constructor(line: CommandLine, streams: CommandStreams, folder: Folder, messages: Messages) {
    const { input, terminal } = streams;
    const token = randomBytes(16).toString('hex');
    this.#messages = messages;
    this.#isTerminal = terminal !== undefined;
    const decoder = new OutputDecoder();
    this.#stdout = new OutputPipe(token, terminal && ((bytes) => decoder.decode(bytes)));
    this.#stderr = new OutputPipe(token);
    this.stdout = this.#stdout.stream;
    this.stderr = this.#stderr.stream;
    this.exitCode = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever starts a command need not wait for its end.
    this.exitCode.catch(() => {});
    if (input !== undefined)
      this.#input =
        terminal === undefined ? new StreamReader(input) : new StreamReader(input, encodeInput, 'wait');
    else if (terminal !== undefined) this.#input = new StreamReader(new PassThrough(), encodeInput, 'wait');

    const { id } = line;
    const add = (name: string, node: TextFile | Source | Sink): void => void folder.entries.set(name, node);
    const text = (name: string, script: string): void =>
      add(name, new TextFile(Buffer.from(nameBytes(script))));
    text('command', commandScript(line));
    if (terminal === undefined) {
      text('start', pipedScript(id, token, input !== undefined));
      text('launch', launchScript(line));
      add('stderr', this.#stderr.sink);
    } else {
      text('start', terminalStartScript(id));
      text('terminal', terminalScript(line, token, terminal));
      const over = new Promise<void>((resolve) => {
        this.#over = resolve;
      });
      add('over', new Source(() => ({ read: () => over.then(() => Buffer.alloc(0)) })));
      this.#stdout.onEnd = () => this.#over();
      this.#stderr.end();
    }
    if (this.#input !== undefined) add('stdin', new Source(() => this.#input!));
    add('stdout', this.#stdout.sink);
    add('started', new Sink((bytes) => this.#started(bytes)));
    add('exit', new Sink((bytes) => this.#ended(bytes)));
  }

  /**
   * Sends a signal to the command and what it has started in its process group.
   * @throws UsageError for a signal that Linux does not have.
   */
  async kill(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (!Object.hasOwn(constants.signals, signal)) throw new UsageError(`${String(signal)}: no such signal`);
    const name = signal.slice('SIG'.length);
    if (this.#settle === undefined) return;
    if (this.#pid === undefined) this.#early.push(name);
    else await this.#messages.send(`kill ${name} ${this.#pid}\n`);
  }

  /** Gives the terminal another size. Without a terminal nothing happens. */
  resize({ columns, rows }: TerminalSize): void {
    if (this.#isTerminal) this.#input?.push(encodeSize(columns, rows));
  }

  /** The sandbox has ended. */
  lose(error: unknown): void {
    this.#settle?.reject(error);
    this.#settle = undefined;
    this.#stop();
    this.#stdout.end();
    this.#stderr.end();
  }

  #started(bytes: Buffer): void {
    const pid = answerOf(bytes);
    if (pid === undefined || this.#pid !== undefined || this.#settle === undefined) return;
    this.#pid = pid;
    for (const name of this.#early.splice(0)) void this.#messages.send(`kill ${name} ${pid}\n`);
  }

  #ended(bytes: Buffer): void {
    const code = answerOf(bytes);
    if (code === undefined) return;
    this.#settle?.resolve(Number(code) & 0xff);
    this.#settle = undefined;
    this.#stop();
  }

  #stop(): void {
    this.#input?.end();
    this.#over();
  }
}

/** Digits that a line from the guest has; undefined if it has others. */
function answerOf(bytes: Buffer): string | undefined {
  return /^(\d{1,10})\n$/.exec(bytes.toString('latin1', 0, MAX_ANSWER_BYTES))?.[1];
}

/**
 * A command's output, up to the token that follows it. What comes later is dropped. With a terminal
 * (`decode`) the token precedes it, too, and what comes before that is dropped.
 */
class OutputPipe {
  readonly stream = new PassThrough();
  readonly sink: Sink;
  /** Called when the output has ended. */
  onEnd = (): void => {};
  readonly #token: Buffer;
  readonly #decode: ((bytes: Buffer) => Buffer) | undefined;
  #held = Buffer.alloc(0);
  #begun: boolean;
  #ended = false;

  constructor(token: string, decode?: (bytes: Buffer) => Buffer) {
    this.#token = Buffer.from(token);
    this.#decode = decode;
    this.#begun = decode === undefined;
    this.sink = new Sink(
      (bytes) => this.#take(bytes),
      () => this.end(),
    );
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.stream.end(this.#held);
    this.onEnd();
  }

  #take(piece: Buffer): Promise<void> | undefined {
    if (this.#ended) return undefined;
    // A write that was interrupted has left its bytes here: another one waits like the first.
    if (this.stream.writableNeedDrain) throw FsError.of('EAGAIN');
    const decoded = this.#decode?.(piece) ?? piece;
    let bytes = this.#held.length === 0 ? decoded : Buffer.concat([this.#held, decoded]);
    let at = bytes.indexOf(this.#token);
    if (!this.#begun) {
      this.#begun = at >= 0;
      bytes = bytes.subarray(at < 0 ? bytes.length - overlap(bytes, this.#token) : at + this.#token.length);
      at = bytes.indexOf(this.#token);
    }
    const keep = at < 0 ? overlap(bytes, this.#token) : 0;
    this.#held = Buffer.from(bytes.subarray(bytes.length - keep));
    const isTaken = pass(this.stream, bytes.subarray(0, at < 0 ? bytes.length - keep : at));
    if (at >= 0) this.end();
    if (isTaken || this.#ended) return undefined;
    return drained(this.stream);
  }
}
