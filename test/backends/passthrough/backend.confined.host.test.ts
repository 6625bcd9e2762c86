import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { UnixListener } from '../../../core/system/index.js';
import { sealProgram, seccompProgram } from '../../../core/system/confinement/seccomp.js';
import { landlockVersion } from '../../../core/system/confinement/landlock.js';
import { LAYERS } from '../../../core/plugins/index.js';
import { host } from './host-calls.js';

const hasLandlock = landlockVersion() > 0;
const skip = process.geteuid!() === 0 && hasLandlock ? {} : { skip: 'needs root and Landlock' };
const child = join(import.meta.dirname, 'confined-child.js');

/**
 * In some chroots the root directory is no mount point, and a process can't have mounts that the
 * host doesn't see.
 */
const rootIsMountPoint = /^(\S+ ){4}\/ /m.test(fs.readFileSync('/proc/self/mountinfo', 'utf8'));

/** What the process in `confined-child.ts` reports. */
interface Report {
  readonly threads: readonly { capabilities: string; noNewPrivs: string; seccomp: string; mounts: string }[];
  readonly log: Record<string, unknown>;
  readonly outcomes: Record<string, string>;
}

/** Sockets of others, to which nothing inside a daemon may connect. */
function listenOn(t: TestContext, ...paths: string[]): void {
  for (const path of paths) {
    const listener = UnixListener.listen(path);
    t.after(() => listener.close());
  }
}

/** Runs the child on a share below `base`, beside which lies a secret. */
function confined(base: string, ...words: string[]): Report {
  const result = spawnSync(process.execPath, [child, base, ...words], { encoding: 'utf8', timeout: 60_000 });
  assert.equal(result.status, 0, result.stderr);
  return JSON.parse(result.stdout) as Report;
}

function arena(t: TestContext): string {
  const base = fs.mkdtempSync(join(tmpdir(), 'vfk-confined-'));
  t.after(() => fs.rmSync(base, { recursive: true, force: true }));
  fs.mkdirSync(join(base, 'share'));
  fs.mkdirSync(join(base, 'sockets'));
  fs.writeFileSync(join(base, 'secret'), 'secret');
  fs.writeFileSync(join(base, 'share', 'file'), 'content');
  host.mknod(join(base, 'share', 'null'), 0o020666, 0x103);
  return base;
}

test('a confined daemon serves its share and reaches nothing else, on any of its threads', skip, (t) => {
  const base = arena(t);
  const { threads, log, outcomes } = confined(base);
  assert.equal(log['msg'], 'confined');
  assert.match(String(log['landlock']), /^version \d+$/);
  assert.equal(log['seccomp'], 'errno');
  assert.equal(log['mounts'], rootIsMountPoint ? 'own' : 'no (the root directory is no mount point)');
  const own = fs.readlinkSync('/proc/self/ns/mnt');
  // chown dac_override dac_read_search fowner fsetid setgid setuid mknod setfcap.
  const kept = 0x880000dfn;
  assert.ok(threads.length > 1);
  for (const { capabilities, noNewPrivs, seccomp, mounts } of threads) {
    assert.equal(BigInt(`0x${capabilities}`) & ~kept, 0n, capabilities);
    assert.deepEqual([noNewPrivs, seccomp], ['1', '2']);
    assert.notEqual(mounts, own);
  }
  assert.deepEqual(outcomes, {
    'read through the share': 'content',
    'create in the share': 'ok',
    'read the secret': 'EACCES',
    'write beside the share': 'EACCES',
    'read the secret on the pool': 'EACCES',
    'list the root directory': 'EACCES',
    // Its own mounts have no devices. Another test shows that the backend opens none.
    'open a device in the share': rootIsMountPoint ? 'EACCES' : 'ok',
    'start a program': 'EPERM',
    'make a socket': 'ok',
  });
});

const EACCES = 'errno 13';
const EPERM = 'errno 1';
const ENOENT = 'errno 2';
const ENOSYS = 'errno 38';

/** What code inside a daemon of any kind is answered. */
function refused(): Record<string, string> {
  const opened = ['kvm', 'mem', 'fuse', 'vda', 'kmsg'].filter((device) => fs.existsSync(`/dev/${device}`));
  return {
    'read the passwords': EACCES,
    ...Object.fromEntries(opened.map((device) => [`open the device ${device}`, EACCES])),
    'listen for TCP': 'EPERM',
    'connect by TCP': 'EPERM',
    'send by UDP': 'EPERM',
    'connect to a socket beside the share': 'EPERM',
    'connect to the own kind of socket': 'EPERM',
    'listen on a further socket': 'EPERM',
    'see a network': 'none',
    'signal the parent': 'EPERM',
    'signal a thread of the parent': EPERM,
    'signal all processes': 'EPERM',
    'signal the parent by a descriptor': EPERM,
    'hold the parent': EPERM,
    'read environ of the parent': rootIsMountPoint ? ENOENT : EACCES,
    'read status of the parent': rootIsMountPoint ? ENOENT : 'done',
    'read maps of the parent': rootIsMountPoint ? ENOENT : EACCES,
    'list the processes': rootIsMountPoint ? 'itself' : 'others',
    'limit the parent': EPERM,
    'read memory of the parent': EPERM,
    'trace the parent': EPERM,
    mount: EPERM,
    unshare: EPERM,
    'load a program into the kernel': EPERM,
    'watch the processor': EPERM,
    'use the keyring': EPERM,
    'use io_uring': ENOSYS,
    'make an unknown call': ENOSYS,
    'start a program': 'EPERM',
    'write and execute memory': EPERM,
    'execute memory that was written': EPERM,
    'execute a file of the share': EPERM,
    'execute a file in memory': EPERM,
    'compile JavaScript': 'done',
  };
}

/** The errors that opening a file beside the share by its handle may give. */
function byHandle(atShare: string): Record<string, string> {
  const places = { share: atShare, base: EACCES, root: EACCES };
  return Object.fromEntries(
    Object.entries(places).flatMap(([place, code]) => [
      [`read by handle at ${place}`, code],
      [`write by handle at ${place}`, code],
    ]),
  );
}

const ANSWERS: Record<string, Record<string, string>> = {
  passthrough: { ...byHandle(EACCES), 'open a file of the share by handle': 'done' },
  overlay: { ...byHandle(EACCES), 'open a file of the share by handle': 'done' },
  memfs: { ...byHandle(EPERM), 'open a file of the share by handle': EPERM },
  // It connects to any machine.
  s3: {
    ...byHandle(EPERM),
    'open a file of the share by handle': EPERM,
    'connect by TCP': 'ECONNREFUSED',
    'see a network': 'some',
  },
};

for (const [type, answers] of Object.entries(ANSWERS)) {
  test(`code inside a confined ${type} daemon can do nothing that serving does not need`, skip, (t) => {
    const base = arena(t);
    listenOn(t, join(base, 'host'), join(base, 'sockets', 'host'));
    const { outcomes } = confined(base, LAYERS.join(','), 'intrude', type);
    if (type === 's3') outcomes['see a network'] = outcomes['see a network'] === 'none' ? 'none' : 'some';
    assert.deepEqual(outcomes, { ...refused(), ...answers });
  });
}

test('each layer can be left out', skip, (t) => {
  const base = arena(t);
  const { log, outcomes, threads } = confined(base, 'capabilities');
  assert.equal(log['landlock'], undefined);
  assert.equal(log['seccomp'], undefined);
  assert.equal(outcomes['read the secret'], 'ok');
  assert.equal(outcomes['open a device in the share'], 'ok');
  assert.equal(outcomes['start a program'], 'ok');
  assert.equal(threads[0]!.mounts, fs.readlinkSync('/proc/self/ns/mnt'));
  assert.equal(threads[0]!.seccomp, '0');
});

test(
  'under Landlock, files that the kernel has dropped from memory are opened, resized and linked by handle',
  skip,
  async (t) => {
    const base = fs.mkdtempSync(join(tmpdir(), 'vfk-cold-'));
    const image = join(base, 'image');
    const mounted = join(base, 'mounted');
    fs.mkdirSync(mounted);
    t.after(() => {
      spawnSync('umount', ['-l', mounted]);
      fs.rmSync(base, { recursive: true, force: true });
    });
    fs.closeSync(fs.openSync(image, 'w'));
    fs.truncateSync(image, 64 * 2 ** 20);
    const made =
      spawnSync('mkfs.ext4', ['-q', image]).status === 0 &&
      spawnSync('mount', ['-o', 'loop', image, mounted]).status === 0;
    if (!made) {
      t.skip('no ext4 image can be mounted here');
      return;
    }
    fs.mkdirSync(join(mounted, 'share'));
    fs.mkdirSync(join(mounted, 'sockets'));
    fs.mkdirSync(join(mounted, 'share', 'd'));
    fs.writeFileSync(join(mounted, 'share', 'd', 'cold'), 'content');
    fs.writeFileSync(join(mounted, 'share', 'd', 'fresh'), 'content');
    const running = spawn(process.execPath, [child, mounted, 'landlock', 'cold'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    for await (const line of createInterface(running.stdout)) {
      if (line === 'drop') {
        fs.writeFileSync('/proc/sys/vm/drop_caches', '2');
        running.stdin.write('dropped\n');
      } else {
        const { outcomes } = JSON.parse(line) as Report;
        assert.deepEqual(outcomes, {
          'link at once': 'ok',
          open: 'content',
          resize: 'ok',
          link: 'ok',
          renamed: 'ok',
        });
        return;
      }
    }
    assert.fail('the child ended early');
  },
);

test(
  'under Landlock, many files without descriptors are looked at together, where they were seen or by handle',
  skip,
  (t) => {
    const base = arena(t);
    const { outcomes } = confined(base, 'landlock', 'looks');
    assert.deepEqual(outcomes, { looks: 'ok' });
  },
);

test('the filter lets known calls and threads through, and refuses all others', () => {
  const program = seccompProgram('errno');
  const x64 = process.arch !== 'arm64';
  const architecture = x64 ? 0xc000003e : 0xc00000b7;
  const ALLOW = 0x7fff0000;
  const EPERM = 0x00050001;
  const run = (
    number: number,
    argument = 0,
    arch = architecture,
    filter = program,
    second = 0,
    third = 0,
  ): number => {
    const data = new Map([
      [0, number],
      [4, arch],
      [16, argument],
      [24, second],
      [32, third],
    ]);
    let accumulator = 0;
    for (let at = 0; at < filter.length; at++) {
      const [code, yes, no, k] = filter[at]!;
      if (code === 0x20) accumulator = data.get(k)!;
      else if (code === 0x06) return k;
      else if (code === 0x54) accumulator &= k;
      else {
        const holds =
          code === 0x15 ? accumulator === k : code === 0x35 ? accumulator >= k : (accumulator & k) !== 0;
        at += holds ? yes : no;
      }
    }
    assert.fail('ran off the end');
  };
  const [read, write, execve, clone, mount] = x64 ? [0, 1, 59, 56, 165] : [63, 64, 221, 220, 40];
  const [kill, socket, ioctl, setpriority] = x64 ? [62, 41, 16, 141] : [129, 198, 29, 140];
  assert.equal(run(read!), ALLOW);
  assert.equal(run(write!), ALLOW);
  assert.equal(run(execve!), EPERM);
  assert.equal(run(mount!), EPERM);
  assert.equal(run(clone!, 0x10000 | 0x800), ALLOW, 'a thread');
  assert.equal(run(clone!, 17), EPERM, 'a process');
  for (let bit = 0; bit < 32; bit++) {
    if ((0x7e020000 & (1 << bit)) === 0) continue;
    assert.equal(run(clone!, (0x10000 | (1 << bit)) >>> 0), EPERM, 'a thread in a namespace of its own');
  }
  assert.equal(run(435), 0x00050000 | 38, 'clone3 is not there');
  assert.equal(run(read!, 0, 0x40000003), 0x80000000, "another architecture's numbers");
  if (x64) assert.equal(run(0x40000000 | 59), EPERM);
  assert.equal(run(kill!, process.pid), ALLOW, 'a signal to itself');
  for (const other of [process.ppid, 0, 0xffffffff]) assert.equal(run(kill!, other), EPERM);
  assert.equal(run(socket!, 1, architecture, program, 1 | 0x80800), ALLOW, 'a unix socket, with flags');
  assert.equal(run(socket!, 1, architecture, program, 2), EPERM, 'a socket of datagrams');
  assert.equal(run(socket!, 2, architecture, program, 1), EPERM, 'the internet');
  const online = seccompProgram('errno', { network: true });
  assert.equal(run(socket!, 2, architecture, online, 1), ALLOW);
  assert.equal(run(socket!, 17, architecture, online, 3), EPERM, 'packets');
  for (const protocol of [132, 262, 1])
    assert.equal(run(socket!, 2, architecture, online, 1, protocol), EPERM, `protocol ${protocol}`);
  assert.equal(run(socket!, 10, architecture, online, 2, 17), ALLOW, 'UDP');
  assert.equal(run(socket!, 16, architecture, online, 3), ALLOW, 'routes');
  assert.equal(run(socket!, 16, architecture, online, 3, 12), EPERM, 'netfilter');
  for (const call of x64 ? [203, 144, 142] : [122, 119, 118]) {
    assert.equal(run(call, 0), ALLOW, 'a thread of its own');
    assert.equal(run(call, process.ppid), EPERM, 'how others are scheduled');
  }
  assert.equal(run(setpriority!, 0), ALLOW);
  assert.equal(run(setpriority!, 0, architecture, program, process.ppid), EPERM);
  for (const which of [1, 2]) assert.equal(run(setpriority!, which), EPERM, 'the priority of many');
  assert.equal(run(ioctl!, 0, architecture, program, 0x5412), EPERM, "a terminal's input");
  assert.equal(run(600), 0x00050000 | 38, 'a call of a younger kernel is not there');
  const lenient = seccompProgram('errno', { programs: true });
  for (const number of [execve!, clone!, 435]) assert.equal(run(number, 17, architecture, lenient), ALLOW);
  assert.equal(run(mount!, 0, architecture, lenient), EPERM);
});

test('machine code is made anywhere in the ranges of the JavaScript engine, however long, and nowhere else', () => {
  const GIB = 2 ** 30;
  const ranges = [
    { start: 0x7f5e_4002_0000, end: 0x7f5e_4002_0000 + 9 * GIB },
    { start: 0x2bb6_bdbd_0000, end: 0x2bb6_bdbd_0000 + 0x20000 },
  ];
  const program = sealProgram('errno', { network: true, machineCode: false, listens: false }, ranges);
  const x64 = process.arch !== 'arm64';
  const PROT_RWX = 7;
  /** Whether the filter lets through a mprotect that makes memory executable. */
  const isAllowed = (address: number, length: number): boolean => {
    const words = [address % 2 ** 32, Math.floor(address / 2 ** 32), length % 2 ** 32, 0, PROT_RWX, 0];
    const data = new Map(words.map((word, i) => [16 + 4 * i, word]));
    data.set(0, x64 ? 10 : 226).set(4, x64 ? 0xc000003e : 0xc00000b7);
    let [accumulator, index] = [0, 0];
    for (let at = 0; at < program.length; at++) {
      const [code, yes, no, k] = program[at]!;
      if (code === 0x06) return k === 0x7fff0000;
      if (code === 0x20) accumulator = data.get(k)!;
      else if (code === 0x54) accumulator = (accumulator & k) >>> 0;
      else if (code === 0x07) index = accumulator;
      else if (code === 0x0c) accumulator = (accumulator + index) >>> 0;
      else {
        const comparisons: Record<number, boolean> = {
          0x15: accumulator === k,
          0x25: accumulator > k,
          0x35: accumulator >= k,
          0x45: (accumulator & k) !== 0,
        };
        at += comparisons[code]! ? yes : no;
      }
    }
    assert.fail('ran off the end');
  };
  for (const { start, end } of ranges) {
    for (let at = start; at < end - 0x40000; at += GIB / 2)
      assert.ok(isAllowed(at, 0x3c000), at.toString(16));
    assert.ok(isAllowed(end - 4096, 4096));
    assert.ok(!isAllowed(end - 4096, 8192));
    assert.ok(!isAllowed(end, 4096));
    assert.ok(!isAllowed(start - 4096, 4096));
  }
});
