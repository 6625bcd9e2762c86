/**
 * Side by side: this backend, Debian's s3fs and rclone, each mounted on this host over one S3
 * server, doing the same work in turns. Prints a table in Markdown. `node
 * dist/test/backends/s3/compare.js [--rounds N] [--only NAME]`; s3fs and rclone are downloaded with
 * apt and unpacked below `.cache/`, not installed.
 */
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { cacheFolder } from '../../s3-server/cache.js';
import { ACCESS_KEY, SECRET_KEY } from '../../s3-server/radosgw.js';
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
}

const tasks: readonly Task[] = [
  {
    name: 'create 1,000 small files',
    timed: 'mkdir small; i=0; while [ $i -lt 1000 ]; do echo $i > small/$i; i=$((i+1)); done; SYNC small/999',
  },
  { name: '`ls -lR` of 5,000 files, cold', timed: 'ls -lR listed | wc -l', cold: true },
  { name: '`ls -lR` of 5,000 files, again', timed: 'ls -lR listed | wc -l' },
  {
    name: 'write 256 MiB and fsync',
    timed: 'dd if=/dev/zero of=written bs=1M count=256 conv=fsync status=none',
  },
  { name: 'read 256 MiB in order, cold', timed: 'cat big > /dev/null', cold: true },
  { name: 'read 256 MiB in order, again', timed: 'cat big > /dev/null' },
  {
    name: '200 random reads of 64 KiB, cold',
    timed: `perl -e 'srand 7; open F, "<", "big" or die; for (1..200) { sysseek F, 65536 * int rand 4096, 0; sysread(F, $b, 65536) == 65536 or die }'`,
    cold: true,
  },
  { name: 'unpack a tar of 300 files', timed: 'mkdir unpacked; tar -xf TAR -C unpacked; SYNC unpacked' },
  { name: 'rename a directory of 500 files', timed: 'mv renamed moved', cold: true },
];

interface System {
  readonly name: string;
  readonly command: (bucket: TestBucket, directory: string, cache: string) => readonly string[];
}

const cli = fileURLToPath(new URL('../../../core/cli/main.js', import.meta.url));
const systems: readonly System[] = [
  {
    name: 'virtiofs-kit',
    command: ({ name, endpoint }, directory, cache) =>
      words(`${process.execPath} ${cli} mount ${directory} --backend s3 --bucket ${name}
        --endpoint ${endpoint} --path-style --cache-dir ${cache} --log-level error`),
  },
  {
    name: 's3fs 1.90',
    command: ({ name, endpoint }, directory) =>
      words(`${join(peers, 'root/usr/bin/s3fs')} ${name} ${directory} -f -o url=${endpoint}
        -o use_path_request_style -o passwd_file=${join(peers, 'password')}`),
  },
  {
    name: 'rclone 1.60',
    command: ({ name, endpoint }, directory, cache) =>
      words(`${join(peers, 'root/usr/bin/rclone')} mount :s3,provider=Ceph,endpoint='${endpoint}',env_auth=true:${name}
        ${directory} --vfs-cache-mode full --cache-dir ${cache} --config /dev/null`),
  },
];

/** A command line of words that hold no white space. */
function words(line: string): readonly string[] {
  return line.split(/\s+/);
}

async function unpackPeers(): Promise<void> {
  if (existsSync(join(peers, 'root/usr/bin/s3fs'))) return;
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

/** Seconds for each task. */
async function measure(system: System, tar: string): Promise<number[]> {
  const bucket = await TestBucket.create();
  const folder = await mkdtemp(join(tmpdir(), 'compare-'));
  const directory = join(folder, 'mount');
  await mkdir(directory);
  const start = async (): Promise<Running> => {
    const cache = await mkdtemp(join(folder, 'cache-'));
    return Running.start(system.command(bucket, directory, cache), directory);
  };
  const times: number[] = [];
  await prepare(bucket);
  let running = await start();
  for (const { timed, cold } of tasks) {
    if (cold === true) {
      await running.stop();
      running = await start();
    }
    const script = timed.replace('TAR', tar).replace(/SYNC (\S+)/, 'sync $1');
    const began = performance.now();
    await shell(script, directory);
    times.push((performance.now() - began) / 1000);
  }
  await running.stop();
  folders.push(folder);
  await run('find', [folder, '-type', 'f', '-size', '+1M', '-delete']);
  return times;
}

/** What the tasks find in the bucket, with attributes as s3fs writes them. */
async function prepare(bucket: TestBucket): Promise<void> {
  const Metadata = { mode: '33188', uid: '0', gid: '0', mtime: '1700000000' };
  const directory = { ...Metadata, mode: '16877' };
  const names = [
    ...Array.from({ length: 5000 }, (_, i) => `listed/${i % 10}/file-${i}`),
    ...Array.from({ length: 500 }, (_, i) => `renamed/file-${i}`),
  ];
  for (const name of ['listed/', 'renamed/', ...Array.from({ length: 10 }, (_, i) => `listed/${i}/`)]) {
    await bucket.put(name, Buffer.alloc(0), { Metadata: directory });
  }
  for (let at = 0; at < names.length; at += 50) {
    await Promise.all(
      names.slice(at, at + 50).map((name) => bucket.put(name, Buffer.from(name), { Metadata })),
    );
  }
  await bucket.put('big', Buffer.alloc(256 * 2 ** 20, 'big file '), { Metadata });
}

async function makeTar(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'compare-tar-'));
  for (let i = 0; i < 300; i++) {
    const directory = join(folder, 'tree', `d${i % 10}`);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, `file-${i}`), Buffer.alloc(1000 + ((i * 7919) % 60_000), `${i} `));
  }
  await run('tar', ['-cf', join(folder, 'tree.tar'), '-C', folder, 'tree']);
  return join(folder, 'tree.tar');
}

const { values } = parseArgs({ options: { rounds: { type: 'string' }, only: { type: 'string' } } });
const { only = '' } = values;
await unpackPeers();
await writeFile(join(peers, 'password'), `${ACCESS_KEY}:${SECRET_KEY}\n`, { mode: 0o600 });
const tar = await makeTar();
const best = systems.map(() => tasks.map(() => Number.POSITIVE_INFINITY));
for (let round = 0; round < Number(values.rounds ?? 1); round++) {
  for (const [index, system] of systems.entries()) {
    if (!system.name.includes(only)) continue;
    const times = await measure(system, tar);
    process.stderr.write(`${system.name}: ${times.map((time) => time.toFixed(2)).join(' ')}\n`);
    for (const [task, time] of times.entries()) best[index]![task] = Math.min(best[index]![task]!, time);
  }
}
for (const folder of folders) await rm(folder, { recursive: true, force: true });
const row = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`;
process.stdout.write(row(['seconds', ...systems.map(({ name }) => name)]));
process.stdout.write(row(['---', ...systems.map(() => '---')]));
for (const [task, { name }] of tasks.entries()) {
  process.stdout.write(row([name, ...best.map((times) => times[task]!.toFixed(2))]));
}
