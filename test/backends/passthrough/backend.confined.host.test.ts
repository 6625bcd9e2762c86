import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test, type TestContext } from 'node:test';
import { seccompProgram } from '../../../core/system/confinement/seccomp.js';
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
    // Its own mounts have no devices; that the backend opens none is another test's.
    'open a device in the share': rootIsMountPoint ? 'EACCES' : 'ok',
    'start a program': 'EPERM',
    'make a socket': 'ok',
  });
});

test('code inside a confined daemon can do nothing that serving does not need', skip, (t) => {
  const base = arena(t);
  const { outcomes } = confined(base, LAYERS.join(','), 'intrude');
  const EACCES = 'errno 13';
  const EPERM = 'errno 1';
  assert.deepEqual(outcomes, {
    'read by handle at share': EACCES,
    'write by handle at share': EACCES,
    'read by handle at base': EACCES,
    'write by handle at base': EACCES,
    'read by handle at root': EACCES,
    'write by handle at root': EACCES,
    'read the passwords': EACCES,
    ...Object.fromEntries(
      ['kvm', 'mem', 'fuse', 'vda', 'kmsg']
        .filter((device) => fs.existsSync(`/dev/${device}`))
        .map((device) => [`open the device ${device}`, EACCES]),
    ),
    // Landlock's version 4 and 6 bring these.
    'listen for TCP': landlockVersion() >= 4 ? 'EACCES' : 'done',
    'connect by TCP': landlockVersion() >= 4 ? 'EACCES' : 'ECONNREFUSED',
    'signal the parent': landlockVersion() >= 6 ? 'EPERM' : 'ok',
    'read the environment of the parent': EACCES,
    'trace the parent': EPERM,
    mount: EPERM,
    unshare: EPERM,
    'open a file of the share by handle': 'done',
  });
});

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
    const running = spawn(process.execPath, [child, mounted, 'landlock', 'cold'], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    for await (const line of createInterface(running.stdout)) {
      if (line === 'drop') {
        fs.writeFileSync('/proc/sys/vm/drop_caches', '2');
        running.stdin.write('dropped\n');
      } else {
        const { outcomes } = JSON.parse(line) as Report;
        assert.deepEqual(outcomes, { open: 'content', resize: 'ok', link: 'ok', renamed: 'ok' });
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

test('the filter lets ordinary calls and threads through, and refuses what it lists', () => {
  const program = seccompProgram('errno');
  const x64 = process.arch !== 'arm64';
  const architecture = x64 ? 0xc000003e : 0xc00000b7;
  const ALLOW = 0x7fff0000;
  const EPERM = 0x00050001;
  const run = (number: number, argument = 0, arch = architecture, filter = program): number => {
    const data = new Map([
      [0, number],
      [4, arch],
      [16, argument],
    ]);
    let accumulator = 0;
    for (let at = 0; at < filter.length; at++) {
      const [code, yes, no, k] = filter[at]!;
      if (code === 0x20) accumulator = data.get(k)!;
      else if (code === 0x06) return k;
      else {
        const holds =
          code === 0x15 ? accumulator === k : code === 0x35 ? accumulator >= k : (accumulator & k) !== 0;
        at += holds ? yes : no;
      }
    }
    assert.fail('ran off the end');
  };
  const [read, write, execve, clone, mount] = x64 ? [0, 1, 59, 56, 165] : [63, 64, 221, 220, 40];
  assert.equal(run(read!), ALLOW);
  assert.equal(run(write!), ALLOW);
  assert.equal(run(execve!), EPERM);
  assert.equal(run(mount!), EPERM);
  assert.equal(run(clone!, 0x10000 | 0x800), ALLOW, 'a thread');
  assert.equal(run(clone!, 17), EPERM, 'a process');
  assert.equal(run(435), 0x00050000 | 38, 'clone3 is not there');
  assert.equal(run(read!, 0, 0x40000003), 0x80000000, "another architecture's numbers");
  if (x64) assert.equal(run(0x40000000 | 59), EPERM);
  const lenient = seccompProgram('errno', true);
  for (const number of [execve!, clone!, 435]) assert.equal(run(number, 17, architecture, lenient), ALLOW);
  assert.equal(run(mount!, 0, architecture, lenient), EPERM);
});
