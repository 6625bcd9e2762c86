import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { memfd, SystemError, UnixConnection } from '../../core/system/index.js';
import { FrontEndChannel } from '../../core/vhost-user/index.js';
import { encodeMemoryTable } from '../../core/vhost-user/messages.js';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, FuseError, ROOT } from '../support/fuse-client.js';
import { program } from '../support/program.js';
import { fuseTransport } from '../support/vhost-user.js';
import { TestBucket } from '../backends/s3/support.js';

/*
 * Shows how much slower one guest is served while another one floods the same daemon. Beside that,
 * what the machine alone makes of it: the same flood of another daemon.
 *
 *   node dist/test/attack/slowdown.js [--backend NAME]… [--flood WORD]… [--rounds N] [--seconds S]
 *                                     [--directory DIR] [--queue-threads N] [--real-time]
 *
 * `--directory` is on the file system that passthrough is to share: default, one in memory.
 * `--real-time` keeps other programs out: the honest guest comes first, then the daemons, then the
 * floods.
 */

const { values } = parseArgs({
  options: {
    backend: { type: 'string', multiple: true, default: ['passthrough'] },
    flood: { type: 'string', multiple: true, default: [''] },
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '1' },
    directory: { type: 'string', default: '/dev/shm' },
    'queue-threads': { type: 'string', default: '0' },
    'real-time': { type: 'boolean', default: false },
    /** For the process that floods: the socket. */
    socket: { type: 'string' },
  },
});

const KIB = 1024;
const MIB = KIB * KIB;
const MEMORY_BYTES = 64 * MIB;
const FILE_BYTES = 64 * KIB;
/** Milliseconds after a flood. */
const REST_MS = 1000;

interface File {
  readonly id: bigint;
  readonly fh: bigint;
}

async function connect(socket: string, memory = MEMORY_BYTES): Promise<FuseClient> {
  const frontEnd = await FrontEnd.connect(socket, { memory, queueSize: 256 });
  const client = new FuseClient(fuseTransport(frontEnd));
  await client.init();
  return client;
}

async function make(client: FuseClient, name: string): Promise<File> {
  const { entry, open } = await client.create(ROOT, `${name}-${process.pid}`, 0o644);
  return { id: entry.nodeid, fh: open.fh };
}

/** A file with content. */
async function filled(client: FuseClient, name: string, bytes: number): Promise<File> {
  const file = await make(client, name);
  const data = new Uint8Array(Math.min(bytes, MIB)).fill(1);
  for (let at = 0; at < bytes; at += data.length) await client.write(file.id, file.fh, at, data);
  return file;
}

/** What a guest does without end. */
interface Flood {
  readonly name: string;
  /** Requests in flight. */
  readonly depth: number;
  /** Prepares, and returns what each lane does. */
  prepare(socket: string): Promise<(i: number) => Promise<unknown>>;
}

function byClient(
  name: string,
  depth: number,
  prepare: (client: FuseClient) => Promise<(i: number) => Promise<unknown>>,
): Flood {
  return { name, depth, prepare: async (socket) => prepare(await connect(socket)) };
}

const floods: readonly Flood[] = [
  byClient('8 COPY_FILE_RANGE of 2 GiB', 8, async (client) => {
    const from = await filled(client, 'from', 64 * MIB);
    const to = await make(client, 'to');
    return () => client.copyFileRange([from.id, from.fh, 0], [to.id, to.fh, 0], 2 ** 31);
  }),
  byClient('32 COPY_FILE_RANGE of 64 KiB', 32, async (client) => {
    const from = await filled(client, 'from', MIB);
    const to = await make(client, 'to');
    return (i) =>
      client.copyFileRange([from.id, from.fh, 0], [to.id, to.fh, (i % 64) * FILE_BYTES], FILE_BYTES);
  }),
  byClient('64 FSYNC after a write', 64, async (client) => {
    const file = await filled(client, 'synced', MIB);
    return async (i) => {
      await client.write(file.id, file.fh, (i % 256) * 4096, new Uint8Array(4096));
      await client.fsync(file.id, file.fh);
    };
  }),
  byClient('64 FSYNC with nothing to do', 64, async (client) => {
    const file = await filled(client, 'synced', MIB);
    return () => client.fsync(file.id, file.fh);
  }),
  byClient('32 synchronous WRITE', 32, async (client) => {
    const { id } = await make(client, 'synchronous');
    const { fh } = await client.open(id, 2 | 0o4010000);
    return (i) => client.write(id, fh, (i % 256) * 4096, new Uint8Array(4096), 0);
  }),
  byClient('16 FALLOCATE of 256 MiB, and holes', 16, async (client) => {
    const files = await Promise.all(Array.from({ length: 16 }, (_, i) => make(client, `allocated-${i}`)));
    return async (i) => {
      const { id, fh } = files[i % 16]!;
      const begin = (i % 4) * 64 * MIB;
      await client.fallocate(id, fh, 0, begin, 64 * MIB);
      await client.fallocate(id, fh, 3, begin, 64 * MIB);
    };
  }),
  byClient('32 FALLOCATE of 64 KiB, and holes', 32, async (client) => {
    const file = await make(client, 'allocated');
    return async (i) => {
      await client.fallocate(file.id, file.fh, 0, (i % 512) * FILE_BYTES, FILE_BYTES);
      await client.fallocate(file.id, file.fh, 3, (i % 512) * FILE_BYTES, FILE_BYTES);
    };
  }),
  byClient('8 files of 48 MiB made and removed', 8, async (client) => async (i) => {
    const file = await make(client, `large-${i}`);
    await client.fallocate(file.id, file.fh, 0, 0, 48 * MIB);
    await client.release(file.id, file.fh);
    await client.unlink(ROOT, `large-${i}-${process.pid}`);
    await client.forget(file.id);
  }),
  byClient('32 files of 1 MiB made and removed', 32, async (client) => async (i) => {
    const file = await make(client, `large-${i}`);
    await client.fallocate(file.id, file.fh, 0, 0, MIB);
    await client.release(file.id, file.fh);
    await client.unlink(ROOT, `large-${i}-${process.pid}`);
    await client.forget(file.id);
  }),
  byClient('64 empty files made and removed', 64, async (client) => async (i) => {
    const { nodeid } = await client.mknod(ROOT, `name-${process.pid}-${i}`, 0o100644);
    await client.unlink(ROOT, `name-${process.pid}-${i}`);
    await client.forget(nodeid);
  }),
  byClient('32 trees made, renamed and removed', 32, async (client) => async (i) => {
    const { nodeid } = await client.mkdir(ROOT, `tree-${process.pid}-${i}`);
    const inner = await client.mkdir(nodeid, 'inner');
    await client.rename(ROOT, `tree-${process.pid}-${i}`, ROOT, `moved-${process.pid}-${i}`);
    await client.rmdir(nodeid, 'inner');
    await client.rmdir(ROOT, `moved-${process.pid}-${i}`);
    await client.batchForget([
      [nodeid, 1n],
      [inner.nodeid, 1n],
    ]);
  }),
  byClient('16 READDIRPLUS of 2,000 names', 16, async (client) => {
    const { nodeid } = await client.mkdir(ROOT, `names-${process.pid}`);
    for (let i = 0; i < 2000; i++)
      await client.forget((await client.mknod(nodeid, `name-${process.pid}-${i}`, 0o100644)).nodeid);
    return async () => {
      const { fh } = await client.opendir(nodeid);
      for (let offset = 0n; ;) {
        const part = await client.readdirplus(nodeid, fh, offset, 2 ** 17);
        if (part.length === 0) break;
        offset = part.at(-1)!.off;
        await client.batchForget(part.filter(({ name }) => !/^\.+$/.test(name)).map((one) => [one.ino, 1n]));
      }
      await client.releasedir(nodeid, fh);
    };
  }),
  byClient(
    '64 LOOKUP of missing names',
    64,
    async (client) => (i) => client.lookup(ROOT, `missing-${i}`).catch(refused),
  ),
  byClient('32 extended attributes of 60,000 bytes set and read', 32, async (client) => {
    const { id } = await make(client, 'attributes');
    return async (i) => {
      await client.setxattr(id, `user.${i % 32}`, new Uint8Array(60_000)).catch(refused);
      await client.getxattr(id, `user.${i % 32}`).catch(refused);
      await client.listxattr(id);
    };
  }),
  byClient('64 locks taken and given back', 64, async (client) => {
    const { id, fh } = await make(client, 'locked');
    return async (i) => {
      const at = BigInt(i % 100_000) * 2n;
      await client.setlk(id, fh, 1n, { start: at, end: at, type: 1, pid: 1 });
      if (i % 100_000 === 99_999)
        await client.setlk(id, fh, 1n, { start: 0n, end: 2n ** 63n - 1n, type: 2, pid: 1 });
    };
  }),
  byClient('symbolic links of 4,080 bytes', 64, async (client) => async (i) => {
    const { nodeid } = await client.symlink(ROOT, `link-${process.pid}-${i}`, '../'.repeat(1360));
    await client.unlink(ROOT, `link-${process.pid}-${i}`);
    await client.forget(nodeid);
  }),
  byClient('16 READ of 1 MiB', 16, async (client) => {
    const file = await filled(client, 'read', 16 * MIB);
    return (i) => client.read(file.id, file.fh, (i % 16) * MIB, MIB);
  }),
  byClient('16 WRITE of 1 MiB', 16, async (client) => {
    const file = await filled(client, 'written', 16 * MIB);
    const data = new Uint8Array(MIB);
    return (i) => client.write(file.id, file.fh, (i % 16) * MIB, data);
  }),
  byClient('INIT after INIT', 16, async (client) => () => client.init()),
  {
    name: 'connections that say nothing',
    depth: 1,
    async prepare(socket) {
      await sleep(0);
      return async () => {
        try {
          const connections = Array.from({ length: 20 }, () => UnixConnection.connect(socket));
          await sleep(1);
          for (const one of connections) one.close();
        } catch {
          await sleep(1);
        }
      };
    },
  },
  {
    name: 'connections with memory of 1 TiB',
    depth: 2,
    async prepare(socket) {
      await sleep(0);
      const size = 2 ** 40;
      const memory = memfd('guest', size);
      const table = encodeMemoryTable([{ guestAddress: 0, size, userAddress: 0, mmapOffset: 0 }]);
      return async () => {
        const channel = new FrontEndChannel(await connected(socket), () => undefined);
        await channel.command('SET_MEM_TABLE', table, [memory.value]);
        channel.end('it was seen');
      };
    },
  },
  {
    name: 'connections that are set up, use 100 nodes and end',
    depth: 2,
    async prepare(socket) {
      await sleep(0);
      return async (i) => {
        const frontEnd = await FrontEnd.connect(socket, { memory: 4 * MIB });
        const client = new FuseClient(fuseTransport(frontEnd));
        await client.init();
        for (let n = 0; n < 100; n++) await client.lookup(ROOT, `missing-${i}-${n}`).catch(refused);
        frontEnd.close();
      };
    },
  },
  {
    name: 'kicks without requests',
    depth: 1,
    async prepare(socket) {
      const frontEnd = await FrontEnd.connect(socket, { memory: 4 * MIB });
      const [, queue] = frontEnd.queues;
      return async () => {
        for (let i = 0; i < 200; i++) queue!.driver.kick(queue!.kick.value);
        await sleep(0);
      };
    },
  },
];

/** Connects as soon as the daemon has room for one more that it has not accepted yet. */
async function connected(socket: string): Promise<UnixConnection> {
  for (;;) {
    try {
      return UnixConnection.connect(socket);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      await sleep(1);
    }
  }
}

/** What a limit refuses is part of a flood. */
function refused(error: unknown): void {
  if (!(error instanceof FuseError)) throw error;
}

const ENOSYS = 38;

/** What the honest guest does, and how long each took, in milliseconds. */
type Times = Record<string, number[]>;

/** Depth 1, with a rest after each round, as programs do. */
class Honest {
  readonly #client: FuseClient;
  readonly #file: File;
  /** Whether the backend copies: S3 does not. */
  readonly #copies: boolean;
  #round = 0;

  private constructor(client: FuseClient, file: File, copies: boolean) {
    this.#client = client;
    this.#file = file;
    this.#copies = copies;
  }

  static async connect(socket: string): Promise<Honest> {
    const client = await connect(socket);
    const file = await filled(client, 'kept', MIB);
    const { id, fh } = file;
    const copies = await client.copyFileRange([id, fh, 0], [id, fh, FILE_BYTES], FILE_BYTES).then(
      () => true,
      (error: unknown) => {
        if (!(error instanceof FuseError && error.errno === ENOSYS)) throw error;
        return false;
      },
    );
    return new Honest(client, file, copies);
  }

  async work(ms: number, times: Times): Promise<void> {
    const client = this.#client;
    const { id, fh } = this.#file;
    const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
      const start = performance.now();
      const result = await work();
      (times[name] ??= []).push(performance.now() - start);
      return result;
    };
    for (const end = performance.now() + ms; performance.now() < end;) {
      const name = `file-${(this.#round += 1)}`;
      for (let i = 0; i < 4; i++) await timed('GETATTR', () => client.getattr(id));
      await timed('READ 64 KiB', () => client.read(id, fh, 0, FILE_BYTES));
      const file = await timed('CREATE', () => make(client, name));
      await timed('WRITE 64 KiB', () => client.write(file.id, file.fh, 0, new Uint8Array(FILE_BYTES)));
      await timed('FSYNC', () => client.fsync(file.id, file.fh));
      if (this.#copies) {
        await timed('COPY 512 KiB', () =>
          client.copyFileRange([id, fh, 0], [file.id, file.fh, 0], FILE_BYTES * 8),
        );
      }
      await timed('UNLINK', () => client.unlink(ROOT, `${name}-${process.pid}`));
      await client.release(file.id, file.fh);
      await client.forget(file.id);
      await sleep(0.2);
    }
  }
}

/** The command line of a program of this one's, with a priority if there are to be any. */
function commandOf(priority: number, ...words: readonly string[]): [string, string[]] {
  const command = [process.execPath, ...words];
  if (values['real-time']) command.unshift('chrt', '--fifo', String(priority));
  return [command[0]!, command.slice(1)];
}

async function startFlood(socket: string, { name }: Flood): Promise<ChildProcess> {
  const self = fileURLToPath(import.meta.url);
  const child = spawn(...commandOf(1, self, '--socket', socket, '--flood', name), {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  await once(child, 'message');
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill(signal);
  await ended;
}

type Options = Readonly<Record<string, unknown>>;

const backends: Readonly<Record<string, (folder: string) => Options | Promise<Options>>> = {
  passthrough: (folder) => passthrough(join(folder, 'shared')),
  memfs: () => ({ type: 'memfs', size: '1G' }),
  overlay: (folder) => ({
    type: 'overlay',
    lowers: [passthrough(join(folder, 'lower'))],
    upper: passthrough(join(folder, 'upper')),
  }),
  async s3(folder) {
    const { name: bucket, endpoint } = await TestBucket.create();
    return { type: 's3', bucket, endpoint, pathStyle: true, cacheDir: join(folder, 'cache') };
  },
};

function passthrough(sharedDir: string): Options {
  mkdirSync(sharedDir, { recursive: true });
  return { type: 'passthrough', sharedDir };
}

interface Served {
  readonly process: ChildProcess;
  readonly attacked: string;
  readonly honest: string;
}

async function serve(backend: string, folder: string): Promise<Served> {
  const exports: Options[] = [];
  for (const tag of ['attacked', 'honest']) {
    mkdirSync(join(folder, tag), { recursive: true });
    const socket = join(folder, `${tag}.sock`);
    exports.push({
      tag,
      socket,
      queueThreads: Number(values['queue-threads']),
      backend: await backends[backend]!(join(folder, tag)),
    });
  }
  const config = join(folder, 'config.json');
  writeFileSync(config, JSON.stringify({ exports }));
  const child = spawn(...commandOf(2, program, 'serve', '--config', config, '--log-level', 'error'), {
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const [attacked, honest] = exports.map(({ socket }) => socket as string) as [string, string];
  for (let tries = 0; tries < 2400; tries++) {
    try {
      UnixConnection.connect(honest).close();
      return { process: child, attacked, honest };
    } catch {
      await sleep(50);
    }
  }
  throw new Error('the daemon did not start');
}

/** Mean, median, and what 99 of 100 do not exceed. */
function figuresOf(times: number[]): readonly [number, number, number] {
  const sorted = times.sort((a, b) => a - b);
  const mean = sorted.reduce((sum, one) => sum + one, 0) / sorted.length;
  return [mean, sorted[sorted.length >> 1]!, sorted[Math.floor(sorted.length * 0.99)]!];
}

function shown(milliseconds: number): string {
  return milliseconds.toFixed(milliseconds < 10 ? 2 : 0);
}

async function measure(backend: string): Promise<void> {
  const folder = mkdtempSync(join(values.directory, 'vfk-slowdown-'));
  const served: Served[] = [];
  try {
    for (const name of ['own', 'other']) served.push(await serve(backend, join(folder, name)));
    const [own, other] = served as [Served, Served];
    const honest = await Honest.connect(own.honest);
    const ms = Number(values.seconds) * 1000;
    await honest.work(ms, {});
    for (const flood of floods) {
      if (!values.flood.some((word) => flood.name.includes(word))) continue;
      const alone: Times = {};
      const places: readonly [string, Times][] = [
        [other.attacked, {}],
        [own.attacked, {}],
      ];
      for (let round = 0; round < Number(values.rounds); round++) {
        await honest.work(ms / 2, alone);
        // What a flood has left to do, such as uploads, is in each one's way alike.
        for (const [socket, times] of round % 2 === 0 ? places : places.toReversed()) {
          const child = await startFlood(socket, flood);
          try {
            await honest.work(ms, times);
          } finally {
            await end(child, 'SIGKILL');
          }
          await sleep(REST_MS);
        }
      }
      console.log(`${backend}, beside ${flood.name}`);
      for (const operation of Object.keys(alone)) {
        const [without, elsewhere, here] = [alone, ...places.map(([, times]) => times)].map((times) =>
          figuresOf(times[operation] ?? [NaN]),
        ) as [ReturnType<typeof figuresOf>, ReturnType<typeof figuresOf>, ReturnType<typeof figuresOf>];
        const row = ['mean', 'median', '99 %'].map((word, i) => {
          const [none, there, same] = [without[i]!, elsewhere[i]!, here[i]!];
          return `${word} ${shown(none)} ${shown(there)} ${shown(same)} (${(same / there).toFixed(1)})`;
        });
        console.log(`  ${operation.padEnd(13)} ${row.map((text) => text.padEnd(32)).join(' ')}`);
      }
    }
  } finally {
    for (const { process: child } of served) await end(child, 'SIGTERM');
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Floods until it is ended. */
async function run(socket: string, flood: Flood): Promise<void> {
  const act = await flood.prepare(socket);
  process.send!('begins');
  let next = 0;
  const lane = async (): Promise<void> => {
    for (;;) {
      try {
        await act(next++);
      } catch (error) {
        if (!(error instanceof FuseError)) throw error;
        await sleep(1);
      }
    }
  };
  await Promise.all(Array.from({ length: flood.depth }, lane));
}

if (values.socket === undefined) {
  if (values['real-time']) spawnSync('chrt', ['--fifo', '--pid', '--all-tasks', '3', String(process.pid)]);
  console.log('milliseconds: alone, beside the flood of another daemon, of the same one (their ratio)');
  for (const backend of values.backend) await measure(backend);
  process.exit(0);
} else {
  await run(
    values.socket,
    floods.find(({ name }) => name === values.flood[0])!,
  );
}
