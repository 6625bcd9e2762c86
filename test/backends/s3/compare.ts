/**
 * Side by side: this backend, Debian's s3fs and rclone, each mounted on this host over one S3
 * server, doing the same work in turns. Prints a table in Markdown: medians of seconds, CPU of the
 * process that serves, and requests. `node
 * dist/test/backends/s3/compare.js [--rounds N] [--only WORDS] [--systems WORDS]`: rows, and
 * systems, whose name has one of the words, which commas separate. s3fs and rclone that are
 * installed are used, else they are downloaded with apt and unpacked below `.cache/`.
 */
import { execFile, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { cacheFolder } from '../../s3-server/cache.js';
import { ACCESS_KEY, freePort, Radosgw, SECRET_KEY, unpack } from '../../s3-server/radosgw.js';
import { TestBucket } from './support.js';

const run = promisify(execFile);
const peers = cacheFolder('s3-peers');
const libraries = ['root/usr/lib', 'root/lib'].map((path) => join(peers, path, 'x86_64-linux-gnu')).join(':');

/** A task: a shell script, run in the mount and timed. */
interface Task {
  readonly name: string;
  readonly timed: string;
  /**
   * Whether the bucket is mounted anew before it, so that neither process nor kernel has anything
   * cached.
   */
  readonly cold?: boolean;
  /** Whether uploads may go on after it: they count as its requests and CPU, not as its time. */
  readonly changes?: boolean;
  /** Whether the start of the mount is a part of it. */
  readonly mounts?: boolean;
  /** Names of tasks without which it makes no sense. */
  readonly needs?: readonly string[];
}

const LISTED = '`ls -l` of 1,000 files, cold';
const CREATED = 'create 300 small files';
const READ = 'read 128 MiB in order, cold';
const RENAMED = 'rename a directory of 200 files';

const tasks: readonly Task[] = [
  { name: 'mount, and `ls` of 1,000 names', timed: 'ls listed | wc -l', cold: true, mounts: true },
  { name: LISTED, timed: 'ls -l listed | wc -l', cold: true },
  { name: '`ls -l` of 1,000 files, again', timed: 'ls -l listed | wc -l', needs: [LISTED] },
  {
    name: CREATED,
    timed: 'mkdir small; i=0; while [ $i -lt 300 ]; do echo $i > small/$i; i=$((i+1)); done; SYNC small/299',
    changes: true,
  },
  {
    name: 'unpack a tar of 500 files',
    timed: 'mkdir unpacked; tar -xf TAR -C unpacked; SYNC unpacked',
    changes: true,
  },
  { name: 'clone a repository of 30 files', timed: 'git clone -q REPOSITORY clone', changes: true },
  {
    name: 'write 128 MiB and fsync',
    timed: 'dd if=/dev/zero of=written bs=1M count=128 conv=fsync status=none',
    changes: true,
  },
  {
    name: 'write 128 MiB and close',
    timed: 'dd if=/dev/zero of=closed bs=1M count=128 status=none',
    changes: true,
  },
  { name: READ, timed: 'cat big > /dev/null', cold: true },
  { name: 'read 128 MiB in order, again', timed: 'cat big > /dev/null', needs: [READ] },
  { name: '200 random reads of 4 KiB, cold', timed: randomReads(4096), cold: true },
  { name: '200 random reads of 64 KiB, cold', timed: randomReads(65_536), cold: true },
  { name: RENAMED, timed: 'mv renamed moved', cold: true, changes: true },
  {
    name: 'remove a directory of 300 files',
    timed: 'rm -r small',
    changes: true,
    needs: [CREATED, RENAMED],
  },
];

function randomReads(length: number): string {
  const count = (128 * 2 ** 20) / length;
  return `perl -e 'srand 7; open F, "<", "big" or die; for (1..200) { sysseek F, ${length} * int rand ${count}, 0; sysread(F, $b, ${length}) == ${length} or die }'`;
}

interface System {
  readonly name: string;
  /** Milliseconds without a request after which nothing is waiting to be uploaded. */
  readonly quietMs: number;
  readonly command: (bucket: TestBucket, directory: string, cache: string) => readonly string[];
}

/** What the package installs. */
const cli = fileURLToPath(new URL('../../../program/virtiofs-kit.js', import.meta.url));

/** @param promises options of what a mount promises. */
function ours(name: string, promises: string): System {
  return {
    name,
    quietMs: 2500,
    command: (bucket, directory, cache) =>
      words(`${process.execPath} ${cli} mount ${directory} --backend s3 --bucket ${bucket.name}
        --endpoint ${bucket.endpoint} --path-style --cache-dir ${cache} --log-level error${promises}`),
  };
}

const systems: readonly System[] = [
  ours('virtiofs-kit', ''),
  // Of what it promises, no more than the others.
  ours('with `--exclusive mount --durability local`', ' --exclusive mount --durability local'),
  {
    name: 's3fs 1.90',
    quietMs: 500,
    command: ({ name, endpoint }, directory) =>
      words(`${program('s3fs')} ${name} ${directory} -f -o url=${endpoint}
        -o use_path_request_style -o passwd_file=${join(peers, 'password')}`),
  },
  {
    name: 'rclone 1.60',
    // It uploads five seconds after the last close.
    quietMs: 6000,
    command: ({ name, endpoint }, directory, cache) =>
      words(`${program('rclone')} mount :s3,provider=Ceph,endpoint='${endpoint}',env_auth=true:${name}
        ${directory} --vfs-cache-mode full --cache-dir ${cache} --config /dev/null`),
  },
];

/** A command line of words that hold no white space. */
function words(line: string): readonly string[] {
  return line.split(/\s+/);
}

/** The path of another system's program: the unpacked one, else the installed one. */
function program(name: string): string {
  const unpacked = join(peers, 'root/usr/bin', name);
  return existsSync(unpacked) ? unpacked : join('/usr/bin', name);
}

async function unpackPeers(): Promise<void> {
  if (['s3fs', 'rclone'].every((name) => existsSync(program(name)))) return;
  const debs = join(peers, 'debs');
  await mkdir(join(debs, 'partial'), { recursive: true });
  const options = ['-o', `Dir::Cache::archives=${debs}`, '-o', 'Debug::NoLocking=true'];
  await run('apt-get', [
    'install',
    '-y',
    '--no-install-recommends',
    '--download-only',
    ...options,
    's3fs',
    'rclone',
  ]);
  for (const name of await readdir(debs)) {
    if (name.endsWith('.deb')) await run('dpkg', ['-x', join(debs, name), join(peers, 'root')]);
  }
}

/** A mounted system; the process that serves it is another one. */
class Running {
  readonly #child: ReturnType<typeof spawn>;
  readonly #directory: string;

  private constructor(child: ReturnType<typeof spawn>, directory: string) {
    this.#child = child;
    this.#directory = directory;
  }

  static async start(command: readonly string[], directory: string): Promise<Running> {
    const child = spawn(command[0]!, command.slice(1), {
      stdio: ['ignore', 'ignore', 'inherit'],
      // rclone's SDK can't take the certificate bundle that this variable may name.
      env: { ...process.env, LD_LIBRARY_PATH: libraries, AWS_CA_BUNDLE: '' },
    });
    for (let i = 0; i < 200; i++) {
      const mounted = await run('mountpoint', ['-q', directory]).then(
        () => true,
        () => false,
      );
      if (mounted) return new Running(child, directory);
      await sleep(50);
    }
    throw new Error(`${command.join(' ')}: did not mount`);
  }

  /** Seconds of CPU that the process and its children have taken. */
  async cpu(): Promise<number> {
    let ticks = 0;
    const processes = [this.#child.pid!];
    for (const pid of processes) {
      const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]!.split(' ');
      ticks += Number(fields[11]) + Number(fields[12]);
      for (const thread of await readdir(`/proc/${pid}/task`)) {
        const children = await readFile(`/proc/${pid}/task/${thread}/children`, 'utf8').catch(() => '');
        processes.push(...children.split(' ').filter(Boolean).map(Number));
      }
    }
    return ticks / 100;
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    await run('umount', [this.#directory]);
    await ended;
  }
}

async function shell(script: string, directory: string): Promise<void> {
  await run('timeout', ['300', 'sh', '-euc', `cd "$0"; ${script}`, directory], { maxBuffer: 1 << 26 });
}

/**
 * They are removed at the end. ext4 skips inodes that were deleted a moment ago one by one, which
 * would slow down whoever creates files next.
 */
const folders: string[] = [];

/** What a task has taken. */
interface Taken {
  readonly seconds: number;
  /** Of the process that serves the mount, in seconds. */
  readonly cpu: number;
  readonly requests: number;
}

/** What tar and git are given to work with. */
interface Sources {
  readonly tar: string;
  readonly repository: string;
}

async function measure(system: System, server: Radosgw, sources: Sources): Promise<Taken[]> {
  const bucket = TestBucket.open(`t-${randomUUID()}`, server.endpoint);
  await bucket.client.send(new CreateBucketCommand({ Bucket: bucket.name }));
  const folder = await mkdtemp(join(tmpdir(), 'compare-'));
  const directory = join(folder, 'mount');
  await mkdir(directory);
  const start = async (): Promise<Running> => {
    const cache = await mkdtemp(join(folder, 'cache-'));
    return Running.start(system.command(bucket, directory, cache), directory);
  };
  const taken: Taken[] = [];
  await prepare(bucket);
  let running: Running | undefined;
  for (const { timed, cold, changes, mounts } of chosen) {
    if (cold === true) await running?.stop();
    let began = performance.now();
    let requests = await server.requestsServed();
    if (cold === true || running === undefined) running = await start();
    const cpu = mounts === true ? 0 : await running.cpu();
    if (mounts !== true) {
      requests = await server.requestsServed();
      began = performance.now();
    }
    const script = timed
      .replace('TAR', sources.tar)
      .replace('REPOSITORY', sources.repository)
      .replace(/SYNC (\S+)/, 'sync $1');
    await shell(script, directory);
    const seconds = (performance.now() - began) / 1000;
    if (changes === true) await settled(server, system.quietMs);
    const served = await server.requestsServed();
    taken.push({ seconds, cpu: (await running.cpu()) - cpu, requests: served - requests });
  }
  await running?.stop();
  folders.push(folder);
  await run('find', [folder, '-type', 'f', '-size', '+1M', '-delete']);
  return taken;
}

/** Waits until the server has had nothing to do for a while. */
async function settled(server: Radosgw, quietMs: number): Promise<void> {
  let last = await server.requestsServed();
  for (let since = performance.now(); performance.now() - since < quietMs;) {
    await sleep(100);
    const now = await server.requestsServed();
    if (now !== last) since = performance.now();
    last = now;
  }
}

/** What the tasks find in the bucket, with attributes as s3fs writes them. */
async function prepare(bucket: TestBucket): Promise<void> {
  const Metadata = { mode: '33188', uid: '0', gid: '0', mtime: '1700000000' };
  const directory = { ...Metadata, mode: '16877' };
  const names = [
    ...Array.from({ length: 1000 }, (_, i) => `listed/file-${i}`),
    ...Array.from({ length: 200 }, (_, i) => `renamed/file-${i}`),
  ];
  for (const name of ['listed/', 'renamed/']) {
    await bucket.put(name, Buffer.alloc(0), { Metadata: directory });
  }
  for (let at = 0; at < names.length; at += 50) {
    await Promise.all(
      names.slice(at, at + 50).map((name) => bucket.put(name, Buffer.from(name), { Metadata })),
    );
  }
  await bucket.put('big', Buffer.alloc(128 * 2 ** 20, 'big file '), { Metadata });
}

async function makeSources(): Promise<Sources> {
  const folder = await mkdtemp(join(tmpdir(), 'compare-sources-'));
  const tree = join(folder, 'tree');
  for (let i = 0; i < 500; i++) {
    const directory = join(tree, `d${i % 10}`);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, `file-${i}`), Buffer.alloc(1000 + ((i * 7919) % 60_000), `${i} `));
  }
  const tar = join(folder, 'tree.tar');
  await run('tar', ['-cf', tar, '-C', folder, 'tree']);
  const repository = join(folder, 'repository');
  await run('git', ['init', '-q', repository]);
  for (let i = 0; i < 30; i++) await writeFile(join(repository, `file-${i}`), `${i} `.repeat(500));
  const git = ['-C', repository, '-c', 'user.name=a', '-c', 'user.email=a@b.c'];
  await run('git', [...git, 'add', '.']);
  await run('git', [...git, 'commit', '-qm', 'files']);
  folders.push(folder);
  return { tar, repository };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

const { values } = parseArgs({
  options: { rounds: { type: 'string' }, only: { type: 'string' }, systems: { type: 'string' } },
});
const { only = '', systems: systemWords = '' } = values;
const isNamed = (text: string, name: string): boolean => text.split(',').some((word) => name.includes(word));
const wanted = tasks.filter(({ name }) => isNamed(only, name));
const needed = new Set(wanted.flatMap(({ name, needs = [] }) => [name, ...needs]));
const chosen = tasks.filter(({ name }) => needed.has(name));
await unpackPeers();
await writeFile(join(peers, 'password'), `${ACCESS_KEY}:${SECRET_KEY}\n`, { mode: 0o600 });
const credentials = { AWS_ACCESS_KEY_ID: ACCESS_KEY, AWS_SECRET_ACCESS_KEY: SECRET_KEY };
Object.assign(process.env, credentials, { AWS_REGION: 'us-east-1' });
const sources = await makeSources();
await unpack(cacheFolder('radosgw'));
const data = await mkdtemp(join(tmpdir(), 'radosgw-'));
const server = await Radosgw.start(cacheFolder('radosgw'), data, await freePort());
const compared = systems.filter(({ name }) => isNamed(systemWords, name));
const rounds = new Map<System, Taken[][]>(compared.map((system) => [system, []]));
try {
  for (let round = 0; round < Number(values.rounds ?? 1); round++) {
    for (const system of compared) {
      const taken = await measure(system, server, sources);
      rounds.get(system)?.push(taken);
      const text = taken.map(({ seconds, cpu, requests }) =>
        [seconds.toFixed(2), cpu.toFixed(2), requests].join('/'),
      );
      process.stderr.write(`${system.name}: ${text.join(' ')}\n`);
    }
  }
} finally {
  await server.stop();
  for (const folder of folders) await rm(folder, { recursive: true, force: true });
}
const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
process.stdout.write(row(['seconds, CPU seconds, requests', ...compared.map(({ name }) => name)]));
process.stdout.write(row(['---', ...compared.map(() => '---')]));
for (const [task, { name }] of chosen.entries()) {
  const cells = compared.map((system) => {
    const of = (field: keyof Taken): number =>
      median((rounds.get(system) ?? []).map((taken) => taken[task]![field]));
    return `${of('seconds').toFixed(2)}, ${of('cpu').toFixed(2)}, ${of('requests')}`;
  });
  process.stdout.write(row([name, ...cells]));
}
