import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync, openSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { ListBucketsCommand, S3Client } from '@aws-sdk/client-s3';

const run = promisify(execFile);

/** Keys of the one user that the server knows. */
export const ACCESS_KEY = 'testkey';
export const SECRET_KEY = 'testsecret';

const START_ATTEMPTS = 5;

const PACKAGES = ['radosgw', 'ceph-mon', 'ceph-osd'];

/**
 * Downloads Debian's packages and unpacks them below `root`: nothing is installed. Does nothing
 * where that was done.
 * @throws Error that says what to do, where apt can't deliver.
 */
export async function unpack(root: string): Promise<void> {
  const stamp = join(root, '.unpacked');
  if (existsSync(stamp)) return;
  const archives = join(root, 'debs');
  await mkdir(join(archives, 'partial'), { recursive: true });
  const options = ['-o', `Dir::Cache::archives=${archives}`, '-o', 'Debug::NoLocking=true'];
  const download = ['install', '-y', '--no-install-recommends', '--download-only', ...options, ...PACKAGES];
  try {
    await run('apt-get', download, { timeout: 300_000, maxBuffer: 1 << 24 });
  } catch (error) {
    throw new Error(
      `apt-get could not download ${PACKAGES.join(', ')}: run "apt-get update" as root, then try again`,
      { cause: error },
    );
  }
  for (const name of await readdir(archives)) {
    if (name.endsWith('.deb')) await run('dpkg', ['-x', join(archives, name), root], { timeout: 60_000 });
  }
  await writeFile(stamp, '');
}

/** A TCP port that nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no TCP address');
  return address.port;
}

/**
 * Ceph's S3 server on loopback: one monitor, one in-memory OSD, one radosgw. What it stores is gone
 * after `stop`.
 */
export class Radosgw {
  readonly endpoint: string;
  readonly #processes: ChildProcess[] = [];
  readonly #root: string;
  readonly #data: string;
  readonly #environment: NodeJS.ProcessEnv;

  private constructor(root: string, data: string, port: number) {
    this.#root = root;
    this.#data = data;
    this.endpoint = `http://127.0.0.1:${port}`;
    const library = join(root, 'usr/lib/x86_64-linux-gnu');
    this.#environment = {
      ...process.env,
      LD_LIBRARY_PATH: [library, join(library, 'ceph'), join(root, 'lib/x86_64-linux-gnu')].join(':'),
      PATH: `${join(root, 'usr/bin')}:${process.env['PATH'] ?? ''}`,
      PYTHONPATH: join(root, 'usr/lib/python3/dist-packages'),
    };
  }

  /**
   * Starts the server, whose packages are unpacked at `root`. Its files are at `data`, which is
   * emptied first. It mostly answers within 2 seconds. Now and then an OSD of Ceph 16 speaks to its
   * monitor too early and ends ("wrong fsid"). The start is then repeated.
   */
  static async start(root: string, data: string, port: number): Promise<Radosgw> {
    for (let attempt = 1; ; attempt++) {
      const server = new Radosgw(root, data, port);
      try {
        await server.#start(port, await freePort());
        return server;
      } catch (error) {
        await server.stop(attempt < START_ATTEMPTS);
        if (attempt === START_ATTEMPTS) throw error;
      }
    }
  }

  async #start(port: number, monitorPort: number): Promise<void> {
    const data = this.#data;
    await rm(data, { recursive: true, force: true });
    for (const name of ['mon', 'osd', 'rgw', 'run', 'log'])
      await mkdir(join(data, name), { recursive: true });
    const fsid = randomUUID();
    const configuration = join(data, 'ceph.conf');
    await writeFile(configuration, cephConfiguration(this.#root, data, fsid, port, monitorPort));
    const c = ['-c', configuration];
    const map = join(data, 'monmap');
    await this.#run(
      'monmaptool',
      '--create',
      '--clobber',
      '--fsid',
      fsid,
      '--addv',
      'a',
      `[v1:127.0.0.1:${monitorPort}]`,
      map,
    );
    await this.#run('ceph-mon', ...c, '--mkfs', '-i', 'a', '--monmap', map);
    this.#spawn('ceph-mon', ...c, '-i', 'a', '-f');
    await this.#run('ceph-osd', ...c, '-i', '0', '--mkfs', '--osd-uuid', randomUUID());
    const osd = await readFile(join(data, 'osd/fsid'), 'utf8');
    await this.#run(
      '/usr/bin/python3',
      join(this.#root, 'usr/bin/ceph'),
      ...c,
      '--connect-timeout',
      '10',
      'osd',
      'new',
      osd.trim(),
      '0',
    );
    this.#spawn('ceph-osd', ...c, '-i', '0', '-f');
    const admin = ['radosgw-admin', ...c, '-n', 'client.rgw'] as const;
    const user = ['user', 'create', '--uid=test', '--display-name=test'];
    await this.#run(...admin, ...user, `--access-key=${ACCESS_KEY}`, `--secret-key=${SECRET_KEY}`);
    const place = ['--placement-id=default-placement', '--storage-class=COLD'];
    await this.#run(...admin, 'zonegroup', 'placement', 'add', '--rgw-zonegroup=default', ...place);
    const pool = '--data-pool=default.rgw.cold.data';
    await this.#run(...admin, 'zone', 'placement', 'add', '--rgw-zone=default', ...place, pool);
    this.#spawn('radosgw', ...c, '-n', 'client.rgw', '-f');
    await this.#answers(port);
    await this.#knowsUser();
  }

  /** A server that has just begun to listen may not know its users yet, and answers 403. */
  async #knowsUser(): Promise<void> {
    const credentials = { accessKeyId: ACCESS_KEY, secretAccessKey: SECRET_KEY };
    const { endpoint } = this;
    const client = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true, credentials });
    for (let attempt = 0; ; attempt++) {
      try {
        await client.send(new ListBucketsCommand({}));
        break;
      } catch (error) {
        if (attempt === 100) throw error;
        await sleep(100);
      }
    }
    client.destroy();
  }

  async #run(command: string, ...args: string[]): Promise<void> {
    await run(command, args, { env: this.#environment, timeout: 20_000, maxBuffer: 1 << 24 });
  }

  #spawn(command: string, ...args: string[]): void {
    const log = openSync(join(this.#data, 'log', `${command}.out`), 'a');
    const child = spawn(command, args, { env: this.#environment, stdio: ['ignore', log, log] });
    this.#processes.push(child);
  }

  async #answers(port: number): Promise<void> {
    for (let attempt = 0; attempt < 150; attempt++) {
      const dead = this.#processes.find((child) => child.exitCode !== null || child.signalCode !== null);
      if (dead !== undefined) throw new Error(`${dead.spawnfile} ended; see ${join(this.#data, 'log')}`);
      if (await connects(port)) return;
      await sleep(100);
    }
    throw new Error(`radosgw does not answer on port ${port}; see ${join(this.#data, 'log')}`);
  }

  /** Requests that were answered since the start, of whatever kind. */
  async requestsServed(): Promise<number> {
    const socket = connect(join(this.#data, 'run', 'client.rgw.asok'));
    socket.end(`${JSON.stringify({ prefix: 'perf dump' })}\0`);
    const pieces: Buffer[] = [];
    for await (const piece of socket) pieces.push(piece as Buffer);
    // The length comes first.
    const text = Buffer.concat(pieces).subarray(4).toString();
    return (JSON.parse(text) as { rgw: { req: number } }).rgw.req;
  }

  /** Ends the processes and removes their files. */
  async stop(removeFiles = true): Promise<void> {
    for (const child of this.#processes.toReversed()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const ended = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await ended;
    }
    if (removeFiles) await rm(this.#data, { recursive: true, force: true });
  }
}

function connects(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function cephConfiguration(
  root: string,
  data: string,
  fsid: string,
  port: number,
  monitorPort: number,
): string {
  const library = join(root, 'usr/lib/x86_64-linux-gnu');
  return `[global]
fsid = ${fsid}
mon host = v1:127.0.0.1:${monitorPort}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr2 = false
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon max pg per osd = 1000
run dir = ${data}/run
admin socket = ${data}/run/$name.asok
log file = ${data}/log/$name.log
pid file = ${data}/run/$name.pid
osd class dir = ${library}/rados-classes
erasure code dir = ${library}/ceph/erasure-code
plugin dir = ${library}/ceph
crash dir = ${data}/log
paxos propose interval = 0.05
paxos min wait = 0.01
[mon.a]
mon data = ${data}/mon
mon cluster log file = ${data}/log/cluster.log
mon data avail warn = 1
mon data avail crit = 0
[osd.0]
osd data = ${data}/osd
osd objectstore = memstore
memstore device bytes = 17179869184
osd memory target = 939524096
[client.rgw]
rgw data = ${data}/rgw
keyring = /dev/null
rgw frontends = beast endpoint=127.0.0.1:${port} tcp_nodelay=1
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = k=YmluCmJvb3N0CmJvb3N0LWJ1aWxkCmNlcGguY29uZgo=
rgw thread pool size = 32
rgw enable usage log = false
rgw run sync thread = false
rgw enable gc threads = true
rgw gc processor period = 5
rgw gc obj min wait = 1
rgw enable lc threads = false
rgw dynamic resharding = false
`;
}
