import { strict as assert } from 'node:assert';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { packCpio } from '../../core/guest/cpio.js';
import { packPrograms } from '../../core/guest/host-programs.js';
import { findKernel, readModules } from '../../core/guest/kernel.js';
import { TestBucket } from '../backends/s3/support.js';
import { FILE_HANDLE } from '../support/file-handles.js';
import { sharedServer } from '../s3-server/shared.js';
import { program } from '../support/program.js';
import { temporaryFolder } from '../support/vhost-user.js';

/*
 * A guest moves from one QEMU to another, each with a daemon of its own, while it works. QEMU must
 * be 8.2 or later: `.ci/setup test` unpacks Debian's backport of it, and VIRTIOFS_KIT_QEMU names
 * another.
 */

/** How often the guest moves; VIRTIOFS_KIT_MIGRATIONS sets another number. */
const MOVES = Number(process.env['VIRTIOFS_KIT_MIGRATIONS'] ?? 1);
/** One of the backends that is to be tried; VIRTIOFS_KIT_MIGRATIONS_OF names it. */
const ONLY = process.env['VIRTIOFS_KIT_MIGRATIONS_OF'];
const USUAL = ['passthrough', 'memfs', 'overlay'];
/**
 * A virtiofsd, for comparison: VIRTIOFS_KIT_MIGRATIONS_BESIDE names the program, and
 * `VIRTIOFS_KIT_MIGRATIONS_OF=virtiofsd` has it tried.
 */
const OTHER = process.env['VIRTIOFS_KIT_MIGRATIONS_BESIDE'];

const unpacked = fileURLToPath(new URL('../../../.cache/qemu/usr', import.meta.url));
const qemu = [
  process.env['VIRTIOFS_KIT_QEMU'],
  join(unpacked, 'bin/qemu-system-x86_64'),
  'qemu-system-x86_64',
].find((one) => one !== undefined && migrates(one));
const skip = qemu === undefined && 'no QEMU of 8.2 or later';

/** Whether a QEMU knows DEVICE_STATE. */
function migrates(file: string): boolean {
  const { stdout } = spawnSync(file, ['--version'], { encoding: 'utf8' });
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(stdout ?? '') ?? [];
  return Number(major) > 8 || (Number(major) === 8 && Number(minor) >= 2);
}

/**
 * Makes files, and opens them by their handles when the kernel has forgotten them.
 * @param renames whether a file is found that was renamed.
 */
const handles = (renames: boolean): string => `${FILE_HANDLE}
mkdir -p by/handle; echo deep > by/handle/file; echo moved > by/old
deep=$(file_handle save by/handle/file) moved=$(file_handle save by/old)
${renames ? 'mv by/old by/new; ' : ''}sync
handles() {
  echo 2 > /proc/sys/vm/drop_caches
  [ "$(file_handle open . $deep) $(file_handle open . $moved)" = 'deep moved' ] || fail handles $n $(file_handle open . $deep) and $(file_handle open . $moved)
}`;

/**
 * Mounts the share and works there until somebody types a line. Tells each tenth round.
 * @param isOurs whether open files survive that were removed, and file handles lead to files that
 * the guest's kernel has forgotten.
 * @param renames whether these lead to files that were renamed.
 */
const init = (isOurs: boolean, renames: boolean): string => `#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /tmp /mnt
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
for module in /modules/*; do insmod $module; done
mount -t virtiofs test /mnt && cd /mnt || poweroff -f
fail() { echo "FAILED $*"; poweroff -f; }
exec 3<> removed; echo before >&3; ${isOurs ? 'rm removed' : ''}
exec 9> lock
flock -x 9
exec 8> waited
flock -x 8
(exec 8>&- 9>&- 7> waited; flock -x 7 || echo "FAILED wait $?"; : > got) &
waiter=$!
mkdir many
i=0; while [ $i -lt 200 ]; do : > many/$i; i=$((i+1)); done
${isOurs ? handles(renames) : 'handles() { :; }'}
(read -r line </dev/ttyS0; : > /tmp/stop) &
n=0
while [ ! -e /tmp/stop ]; do
  echo line $n >> log || fail append
  mkdir d$n && : > d$n/f && mv d$n/f d$n/g && rm d$n/g && rmdir d$n || fail names
  [ $(ls many | wc -l) = 200 ] || fail listing
  echo v$n > new && mv new value && [ "$(cat value)" = v$n ] || fail value
  n=$((n+1))
  [ $((n % 10)) = 0 ] && handles && echo "ROUND"
done
[ $(wc -l < log) = $n ] || fail lines
flock -n -x lock true && fail lock
echo after >&3 || fail removed
[ "$(cat /proc/$$/fd/3 | tr '\\n' ' ')" = 'before after ' ] || fail content
[ -e got ] && fail waiter
flock -u 8
wait $waiter
[ -e got ] || fail waiting
exec 9>&-
flock -n -x lock true || fail unlock
echo DONE
poweroff -f
`;

interface Answer {
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
}

const GONE: Answer = { error: { desc: 'QEMU has ended' } };

/** QEMU's monitor. */
class Monitor {
  readonly #socket;
  readonly #waiting: ((answer: Answer) => void)[] = [];

  constructor(path: string) {
    this.#socket = createConnection(path).on('error', () => undefined);
    this.#socket.once('close', () => {
      for (const answer of this.#waiting.splice(0)) answer(GONE);
    });
    const lines = createInterface({ input: this.#socket }).on('error', () => undefined);
    lines.on('line', (line) => {
      const message = JSON.parse(line) as Record<string, unknown>;
      if ('return' in message || 'error' in message) this.#waiting.shift()?.(message);
    });
  }

  async ask<T>(execute: string, given: object = {}): Promise<T> {
    const answered = new Promise<Answer>((resolve) => this.#waiting.push(resolve));
    if (!this.#socket.closed) this.#socket.write(`${JSON.stringify({ execute, arguments: given })}\n`);
    const { return: value, error } = this.#socket.closed ? GONE : await answered;
    if (error !== undefined) throw new Error(`${execute}: ${error.desc}`);
    return value as T;
  }
}

/** A QEMU and its daemon. */
interface Host {
  readonly monitor: Monitor;
  readonly errors: () => string;
  /** @throws AssertionError where one of them has ended. */
  mustRun(): void;
  /** Types on the guest's console. */
  type(text: string): void;
  leave(): void;
}

/** The guest's console, of whichever QEMU it is on. */
class Console {
  text = '';

  get rounds(): number {
    return this.text.split('ROUND').length - 1;
  }

  get isOver(): boolean {
    return /FAILED|DONE/.test(this.text);
  }

  /** Waits until the guest, which is at a host, has done some more. */
  async works(at: Host): Promise<void> {
    const { rounds } = this;
    while (this.rounds === rounds && !this.isOver) {
      at.mustRun();
      await sleep(50);
    }
  }
}

async function start(
  t: TestContext,
  folder: string,
  backend: readonly string[],
  initrd: string,
  queues: number,
  output: Console,
  incoming: boolean,
): Promise<Host> {
  let errors = '';
  const run = (file: string, words: readonly string[]): ChildProcess => {
    const child = spawn(file, words, { stdio: ['pipe', 'pipe', 'pipe'] });
    t.after(() => child.kill('SIGKILL'));
    child.stderr.on('data', (text) => (errors += String(text)));
    return child;
  };
  const [socket, monitor] = [join(folder, 'socket'), join(folder, 'monitor')];
  const [file, ...words] = backend;
  const daemon = run(file!, [...words, '--socket-path', socket]);
  const mustRun = (...children: readonly ChildProcess[]): void => {
    for (const { exitCode, signalCode, spawnfile } of children)
      assert.deepEqual([exitCode, signalCode], [null, null], `${spawnfile} has ended: ${errors}`);
  };
  while (!existsSync(socket)) {
    mustRun(daemon);
    await sleep(20);
  }
  const line = [
    '-nodefaults -no-user-config -display none -no-reboot -serial stdio -M q35,accel=tcg -cpu max -m 192M',
    `-L ${join(unpacked, 'share/qemu')} -L /usr/share/qemu -L /usr/share/seabios`,
    '-object memory-backend-memfd,id=mem,size=192M,share=on -numa node,memdev=mem',
    `-kernel ${findKernel().image} -initrd ${initrd} -chardev socket,id=c,path=${socket}`,
    `-device vhost-user-fs-pci,chardev=c,tag=test,num-request-queues=${queues}`,
    `-qmp unix:${monitor},server=on,wait=off${incoming ? ' -incoming defer' : ''}`,
  ];
  // The kernel's check of its timer fails where the host has no time for it.
  const append = 'console=ttyS0 quiet panic=-1 no_timer_check';
  const machine = run(qemu!, [...line.join(' ').split(' '), '-append', append]);
  machine.stdout!.on('data', (text) => (output.text += String(text)));
  const isListening = (): boolean => readFileSync('/proc/net/unix', 'utf8').includes(monitor);
  while (!isListening()) {
    mustRun(machine, daemon);
    await sleep(20);
  }
  await sleep(100);
  const qmp = new Monitor(monitor);
  await qmp.ask('qmp_capabilities');
  return {
    monitor: qmp,
    errors: () => errors,
    mustRun: () => mustRun(machine, daemon),
    type: (text) => machine.stdin!.write(text),
    leave() {
      machine.kill('SIGKILL');
      daemon.kill('SIGTERM');
    },
  };
}

/** Moves the guest. @returns for how long it stood still, in milliseconds. */
async function move(from: Host, to: Host, path: string): Promise<number> {
  const uri = `unix:${path}`;
  await to.monitor.ask('migrate-incoming', { uri });
  await from.monitor.ask('migrate-set-parameters', { 'max-bandwidth': 2 ** 30 });
  await from.monitor.ask('migrate', { uri });
  return left(from, to);
}

/** Waits until the guest has left. @returns for how long it stood still, in milliseconds. */
async function left(from: Host, to?: Host): Promise<number> {
  for (;;) {
    const { status, downtime } = await from.monitor.ask<{ status?: string; downtime?: number }>(
      'query-migrate',
    );
    if (status === 'completed') return downtime!;
    assert.notEqual(status, 'failed', `${from.errors()}\n${to?.errors() ?? ''}`);
    await sleep(20);
  }
}

/** This program's words for a backend. */
function ours(...backend: readonly string[]): readonly string[] {
  const options = ['--tag', 'test', '--locks', 'shared', '--max-remembered', '1000'];
  return [process.execPath, program, 'serve', ...options, '--backend', ...backend];
}

/** A daemon's command line, but for its socket. @param own a directory of this host alone. */
const DAEMONS: Readonly<
  Record<string, (shared: string, own: string) => readonly string[] | Promise<readonly string[]>>
> = {
  passthrough: (shared) => ours('passthrough', '--shared-dir', shared),
  memfs: () => ours('memfs'),
  'an overlay of memfs': (shared) => ours('overlay', '--lower', shared, '--upper', 'memfs'),
  overlay(shared, own) {
    const upper = join(own, 'upper');
    mkdirSync(upper);
    return ours('overlay', '--lower', shared, '--upper', upper);
  },
  async s3(shared, own) {
    // All hosts have the bucket that is made for the first.
    const file = join(shared, 'bucket');
    if (!existsSync(file)) writeFileSync(file, (await TestBucket.create()).name);
    const bucket = ['--bucket', readFileSync(file, 'utf8'), '--endpoint', await sharedServer()];
    return ours('s3', ...bucket, '--path-style', '--cache-dir', join(own, 'cache'));
  },
  ...(OTHER === undefined
    ? {}
    : { virtiofsd: (shared: string) => [OTHER, '--shared-dir', shared, '--sandbox', 'none'] }),
};

/** Makes what a guest needs. @returns starts the host with a number, the first of which boots. */
function prepare(t: TestContext, name: string, output: Console): (number: number) => Promise<Host> {
  // virtiofsd loses files that were removed, and has one request queue.
  const isOurs = name !== 'virtiofsd';
  const folder = temporaryFolder(t);
  const shared = join(folder, 'shared');
  mkdirSync(shared);
  const initrd = join(folder, 'initrd');
  const directories = ['bin', 'modules', 'dev'].map((path) => ({ path, mode: 0o040755 }));
  const modules = readModules(findKernel()).map(({ name: module, code }, index) => ({
    path: `modules/${String(index).padStart(2, '0')}-${module}.ko`,
    mode: 0o100644,
    content: code,
  }));
  const programs = [
    { path: 'bin/busybox', mode: 0o100755, content: readFileSync('/bin/busybox') },
    { path: 'init', mode: 0o100755, content: Buffer.from(init(isOurs, name !== 's3')) },
    ...packPrograms(['flock', 'perl']),
  ];
  writeFileSync(initrd, packCpio([...directories, ...programs, ...modules]));
  return async (number) => {
    const own = join(folder, String(number));
    mkdirSync(own);
    return start(t, own, await DAEMONS[name]!(shared, own), initrd, isOurs ? 2 : 1, output, number > 0);
  };
}

/** Has the guest end its work, and checks what it found. */
async function finish(at: Host, output: Console): Promise<void> {
  at.type('stop\n');
  while (!output.isOver) {
    at.mustRun();
    await sleep(50);
  }
  assert.match(output.text, /DONE/, output.text.slice(-2000));
}

for (const name of Object.keys(DAEMONS)) {
  const isAsked = ONLY === undefined ? USUAL.includes(name) : name === ONLY;
  test(
    `a guest on ${name} works on while it moves from QEMU to QEMU`,
    { skip: skip || !isAsked },
    async (t) => {
      const output = new Console();
      const next = prepare(t, name, output);
      const folder = temporaryFolder(t);
      let at = await next(0);
      await output.works(at);
      const pauses: number[] = [];
      for (let moves = 1; moves <= MOVES && !output.isOver; moves++) {
        const to = await next(moves);
        if (output.isOver) break;
        pauses.push(await move(at, to, join(folder, `stream${moves}`)));
        at.leave();
        at = to;
        await output.works(at);
      }
      t.diagnostic(`stood still for ${pauses.join(', ')} ms`);
      await finish(at, output);
      assert.equal(pauses.length, MOVES);
    },
  );
}

test('a guest on memfs is suspended to a file, and resumes from it twice', { skip }, async (t) => {
  const output = new Console();
  const next = prepare(t, 'memfs', output);
  const uri = `file:${join(temporaryFolder(t), 'suspended')}`;
  const first = await next(0);
  await output.works(first);
  await first.monitor.ask('migrate', { uri });
  await left(first);
  first.leave();
  for (const again of [1, 2]) {
    const at = await next(again);
    await at.monitor.ask('migrate-incoming', { uri });
    await output.works(at);
    assert.ok(!output.isOver, output.text.slice(-2000));
    if (again === 2) await finish(at, output);
    else at.leave();
  }
});

/** Runs a job of QEMU to its end. */
async function job({ monitor }: Host, name: string, given: object): Promise<void> {
  await monitor.ask(name, { 'job-id': name, ...given });
  for (;;) {
    const jobs = await monitor.ask<{ id: string; status: string; error?: string }[]>('query-jobs');
    const { status, error } = jobs.find(({ id }) => id === name)!;
    if (status === 'concluded') {
      await monitor.ask('job-dismiss', { id: name });
      assert.equal(error, undefined, name);
      return;
    }
    await sleep(20);
  }
}

/** A disk that takes snapshots of its machine. */
async function makeDisk(at: Host, filename: string): Promise<void> {
  await job(at, 'blockdev-create', { options: { driver: 'file', filename, size: 0 } });
  await at.monitor.ask('blockdev-add', { driver: 'file', 'node-name': 'store', filename });
  await job(at, 'blockdev-create', { options: { driver: 'qcow2', file: 'store', size: 2 ** 20 } });
  await at.monitor.ask('blockdev-add', { driver: 'qcow2', 'node-name': 'disk', file: 'store' });
}

test('a guest on memfs goes back to a snapshot of itself (savevm, loadvm) twice', { skip }, async (t) => {
  const output = new Console();
  const at = await prepare(t, 'memfs', output)(0);
  await output.works(at);
  await makeDisk(at, join(temporaryFolder(t), 'disk'));
  const snapshot = { tag: 'then', vmstate: 'disk', devices: ['disk'] };
  await job(at, 'snapshot-save', snapshot);
  for (let times = 0; times < 2; times++) {
    await output.works(at);
    await job(at, 'snapshot-load', snapshot);
    await output.works(at);
    assert.ok(!output.isOver, `${output.text.slice(-2000)}\n${at.errors()}`);
  }
  await finish(at, output);
});
