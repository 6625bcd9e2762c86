import type { Command } from 'commander';
import { once } from 'node:events';
import { createReadStream, createWriteStream, type WriteStream } from 'node:fs';
import type { Writable } from 'node:stream';
import { UsageError } from '../../backend/index.js';
import { opcodeName } from '../../monitoring/index.js';
import {
  askDaemon,
  check,
  createLogger,
  DAEMON_ITSELF,
  describeOptions,
  openExport,
} from '../../plugins/index.js';
import {
  CaptureReader,
  filterOf,
  filterSchema,
  lostRequestsLine,
  Replay,
  requestJson,
  requestLine,
  type TracedRequest,
} from '../../trace/index.js';
import type { BackendOptions } from '../backend-options.js';
import { addFlag, givenOptions, type Values } from '../flags.js';
import { pause, shownUntil } from '../serving/signals.js';

/** Between two questions for more, in milliseconds, while there is nothing. */
const PAUSE_MS = 100;
/** Requests that are put into the order in which they began. */
const MOST_REPLAYED = 2_000_000;
/** Differences that are shown. */
const MOST_SHOWN = 20;

const FILTER = describeOptions(filterSchema);

/** `trace`: each request, as it is served, from a file, or once more. */
export function addTrace(program: Command, backend: BackendOptions): void {
  const trace = program
    .command('trace')
    .description('show each request that guests make of a daemon, record them, or serve them once more')
    .addHelpText('after', EXAMPLES);
  const live = trace
    .command('live', { isDefault: true })
    .description('show requests as they are served, until Ctrl-C')
    .argument('<CONTROL>', "the daemon's control socket: serve --control CONTROL");
  addShown(live).action(showLive);
  trace
    .command('record')
    .description('write requests into a file, until Ctrl-C')
    .argument('<CONTROL>', "the daemon's control socket")
    .argument('<FILE>', 'the file to make')
    .option('--data', 'the content that guests write, too: a replay writes zeros without it')
    .option('--seconds <N>', 'end after so many seconds')
    .action(record);
  const show = trace
    .command('show')
    .description('show the requests of a file that record has made')
    .argument('<FILE>', 'the file');
  addShown(show).action(showFile);
  const replay = trace
    .command('replay')
    .description('serve the requests of a file once more, by any backend, and show what differs')
    .argument('<FILE>', 'a file that record has made')
    .option('--export <TAG>', 'those of this export, where the file has several');
  backend.addTo(replay);
  replay.action((file: string, values: Values) => serveOnceMore(file, values, backend));
}

function addShown(command: Command): Command {
  for (const option of FILTER) addFlag(command, option);
  return command
    .option('--json', 'a line of JSON for each request, for programs')
    .option('--count <N>', 'end after so many requests are shown')
    .option('--seconds <N>', 'end after so many seconds');
}

/** What the filter lets pass, in lines. */
class Shown {
  readonly #shows: ReturnType<typeof filterOf>;
  readonly #isJson: boolean;
  #left: number;

  constructor(values: Values) {
    const given = check(filterSchema, givenOptions(FILTER, values), '', ([key]) => {
      return `--${FILTER.find(({ name }) => name === key)?.flag ?? String(key)}`;
    });
    this.#shows = filterOf(given);
    this.#isJson = values['json'] === true;
    this.#left = numberOf('count', values['count']) ?? Infinity;
  }

  /** @returns whether more is wanted. */
  async put(reader: CaptureReader, piece: Uint8Array): Promise<boolean> {
    let text = '';
    for (const event of eventsOf(reader, piece)) {
      if (this.#left <= 0) break;
      if ('lost' in event)
        text += this.#isJson ? `{"lost":${event.lost}}\n` : `${lostRequestsLine(event.lost)}\n`;
      else if (this.#shows(event)) {
        this.#left -= 1;
        text += `${this.#isJson ? requestJson(event) : requestLine(event)}\n`;
      }
    }
    if (text !== '' && !process.stdout.write(text)) await room(process.stdout);
    return this.#left > 0 && process.stdout.errored === null;
  }
}

function* eventsOf(reader: CaptureReader, piece: Uint8Array): ReturnType<CaptureReader['read']> {
  try {
    yield* reader.read(piece);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(`trace: what came is no capture: ${error.message}`, { cause: error });
  }
}

async function showLive(control: string, values: Values): Promise<void> {
  const shown = new Shown(values);
  const reader = new CaptureReader();
  await follow(control, false, values, (piece) => shown.put(reader, piece));
}

async function record(control: string, file: string, values: Values): Promise<void> {
  let stream: WriteStream | undefined;
  let failure: Error | undefined;
  await follow(control, values['data'] === true, values, async (piece) => {
    // Not before the daemon has answered: what an older file has would be lost for nothing.
    stream ??= await made(file, (error) => (failure = error));
    if (failure === undefined && !stream.write(piece)) await room(stream);
    return failure === undefined;
  });
  if (stream !== undefined && failure === undefined) {
    stream.end();
    await once(stream, 'close');
  }
  if (failure !== undefined) throw new UsageError(`${file}: ${failure.message}`, { cause: failure });
}

/** Makes a file anew. @param failed is called with an error of a later write. @throws UsageError */
async function made(file: string, failed: (error: Error) => void): Promise<WriteStream> {
  const stream = createWriteStream(file, { mode: 0o600 });
  await once(stream, 'open').catch((error: Error) => {
    throw new UsageError(error.message, { cause: error });
  });
  return stream.on('error', failed);
}

/** Resolves when a stream takes more, or never will. */
async function room(stream: Writable): Promise<void> {
  const over = new AbortController();
  const { signal } = over;
  // 'error' rejects each.
  await Promise.race([once(stream, 'drain', { signal }), once(stream, 'close', { signal })]).catch(
    () => undefined,
  );
  over.abort();
}

/** Gives `take` the pieces of a capture as they come, until it wants no more or a signal comes. */
async function follow(
  control: string,
  data: boolean,
  values: Values,
  take: (piece: Uint8Array) => Promise<boolean>,
): Promise<void> {
  const end = performance.now() + (numberOf('seconds', values['seconds']) ?? Infinity) * 1000;
  const stop = shownUntil();
  const ask = (options: Record<string, unknown>): Promise<readonly string[]> =>
    askDaemon(control, { backend: DAEMON_ITSELF, command: 'trace', options });
  const [id] = await ask({ start: true, data });
  try {
    for (let goesOn = true; goesOn;) {
      const isLast = stop.aborted || performance.now() >= end;
      const pieces = await ask({ next: Number(id) });
      for (const piece of pieces) {
        goesOn &&= await take(Buffer.from(piece, 'base64'));
      }
      if (isLast) break;
      if (pieces.length === 0) await pause(PAUSE_MS, stop);
    }
  } finally {
    await ask({ stop: Number(id) });
  }
}

async function showFile(file: string, values: Values): Promise<void> {
  const shown = new Shown(values);
  const reader = new CaptureReader();
  for await (const piece of piecesOf(file)) if (!(await shown.put(reader, piece))) return;
  if (reader.isCutOff) throw new UsageError(`${file}: it is cut off`);
}

async function* piecesOf(file: string): AsyncGenerator<Buffer> {
  try {
    yield* createReadStream(file) as AsyncIterable<Buffer>;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === undefined) throw error;
    throw new UsageError(`${file}: ${(error as Error).message}`, { cause: error });
  }
}

async function serveOnceMore(file: string, values: Values, backend: BackendOptions): Promise<void> {
  const { spec, settings } = backend.choice(values);
  const requests = await requestsOf(file, values['export']);
  const log = createLogger({ level: 'warn', format: 'auto' });
  const one = await openExport(
    spec,
    { locks: 'shared', ...settings },
    {
      registry: backend.registry,
      optionName: backend.name,
      log,
    },
  );
  const replay = new Replay(one);
  const counts = { same: 0, skipped: 0, different: 0 };
  try {
    for (const request of requests) {
      const outcome = await replay.serve(request);
      counts[outcome.kind] += 1;
      if (outcome.kind !== 'different' || counts.different > MOST_SHOWN) continue;
      write(`differs: ${requestLine(request)}; it was: ${outcome.was}; it is: ${outcome.is}`);
    }
  } finally {
    await replay.close();
    await one.close();
  }
  if (counts.different > MOST_SHOWN) write(`and ${counts.different - MOST_SHOWN} more that differ`);
  for (const [opcode, { count, recorded, replayed }] of replay.times) {
    const [was, is] = [recorded, replayed].map((sum) => (sum / count).toFixed(1));
    write(`${opcodeName(opcode)}: ${count}, ${was} us on average then, ${is} us now`);
  }
  write(
    `${counts.same} as they were, ${counts.different} different, ` +
      `${counts.skipped} left out (of nodes or files from before the capture, or not whole)`,
  );
  if (!requests.some(({ opcode }) => opcodeName(opcode) === 'INIT'))
    write('The capture began after the guests had mounted: names that were there already are missing now.');
  if (counts.different > 0) process.exitCode = 1;
}

/** The requests of one export, in the order in which they began. */
async function requestsOf(file: string, tag: unknown): Promise<TracedRequest[]> {
  const reader = new CaptureReader();
  const requests: TracedRequest[] = [];
  const tags = new Set<string>();
  for await (const piece of piecesOf(file)) {
    for (const event of eventsOf(reader, piece)) {
      if ('lost' in event) continue;
      tags.add(event.tag);
      if (tag === undefined || event.tag === tag) requests.push(event);
      if (requests.length > MOST_REPLAYED)
        throw new UsageError(`${file}: more than ${MOST_REPLAYED} requests`);
    }
  }
  if (tag === undefined && tags.size > 1)
    throw new UsageError(`--export is required: ${[...tags].join(', ')}`);
  if (requests.length === 0) throw new UsageError(`${file}: there is no request in it`);
  return requests.toSorted((a, b) => a.time - b.time);
}

function numberOf(flag: string, text: unknown): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (String(text).trim() !== '' && value > 0) return value;
  throw new UsageError(`--${flag} ${String(text)}: must be a number above 0`);
}

function write(line: string): void {
  process.stdout.write(`${line}\n`);
}

const EXAMPLES = `
Examples:
  What fails:
    virtiofs-kit trace /run/data.control --errors
  Slow writes below a directory:
    virtiofs-kit trace /run/data.control --opcode WRITE --opcode FSYNC --path /db --slower-than 10
  A bug report that becomes a test:
    virtiofs-kit trace record /run/data.control bug.trace --data --seconds 60
    virtiofs-kit trace replay bug.trace --backend memfs
`;
