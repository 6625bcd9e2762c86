import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { PassThrough, Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { decodeName } from '../../core/backend/index.js';
import { chooseForTrusted, Guest, GuestError } from '../../core/guest/index.js';
import { whyNoUml } from '../support/uml.js';
import { until } from '../support/vhost-user.js';
import { DaemonWithGuests } from './daemon-with-guests.js';

const umlIsMissing = whyNoUml();

for (const accelerator of [undefined, 'uml'] as const)
  describe(
    accelerator === undefined ? 'a guest' : 'a guest of User-Mode Linux',
    { skip: accelerator === 'uml' && umlIsMissing },
    () => {
      let served: DaemonWithGuests;
      before(async () => {
        const second = { tag: 'second', backend: { type: 'memfs' }, readOnly: true };
        served = await DaemonWithGuests.boot([{ backend: { type: 'memfs' } }, second], { accelerator });
      });
      after(() => served[Symbol.asyncDispose]());

      it('takes as many words as Linux does, and every byte in them', async () => {
        const names = Array.from({ length: 20_000 }, (_, i) => `file-${i}`);
        const { stdout, code } = await served.guest.exec(['echo', ...names]);
        assert.equal(stdout, `${names.join(' ')}\n`);
        assert.equal(code, 0);
        const word = decodeName(Buffer.from('caf\xe9 \'"\\', 'latin1'));
        const bytes = await served.guest.exec(['sh', '-c', 'echo -n "$0" | od -An -tx1', word]);
        assert.equal(bytes.stdout, ' 63 61 66 e9 20 27 22 5c\n');
      });

      // User-Mode Linux suspends, until it gets a signal.
      const suspends = { skip: accelerator === 'uml' };
      it('refuses to suspend and to hibernate, and goes on with its files', suspends, async (t) => {
        const script = `[ -e /sys/power/state ] || exit 99
          exec 3> open; echo first >&3
          for how in freeze mem disk; do echo $how > /sys/power/state && echo $how; done 2> errors
          grep -c 'not supported' errors; echo second >&3; cat open`;
        const { stdout, code } = await served.guest.exec(['sh', '-c', script], { folder: '/mnt' });
        if (code === 99) t.skip('this kernel has no suspend');
        else assert.equal(stdout, '3\nfirst\nsecond\n');
      });

      it('gives back output, errors and exit code of a command', async () => {
        assert.deepEqual(await served.guest.exec('echo out; echo err >&2; exit 7'), {
          code: 7,
          stdout: 'out\n',
          stderr: 'err\n',
        });
      });

      it('hands a program its arguments as they are', async () => {
        const words = ['', 'a b', "it's", '$HOME', '"', '\\', '*', 'two\nlines', 'é'];
        const { stdout } = await served.guest.exec(['printf', '[%s]', ...words]);
        assert.equal(stdout, words.map((word) => `[${word}]`).join(''));
      });

      it('runs programs that are asked for at the same time one after the other', async () => {
        const words = Array.from({ length: 5 }, (_, i) => `program-${i}`);
        const results = await Promise.all(
          words.map((word, i) => served.guest.exec(`echo ${word}; echo ${word} >&2; exit ${i}`)),
        );
        assert.deepEqual(
          results,
          words.map((word, code) => ({ code, stdout: `${word}\n`, stderr: `${word}\n` })),
        );
      });

      it('tells a missing program and a signal by their exit codes', async () => {
        assert.equal((await served.guest.exec(['no-such-program'])).code, 127);
        assert.equal((await served.guest.exec('kill -TERM $$')).code, 143);
      });

      it('lets a command open its output again by name', async () => {
        const { stdout, stderr } = await served.guest.exec(
          'echo one; echo two > /dev/stdout; echo three > /dev/stderr',
        );
        assert.deepEqual([stdout, stderr], ['one\ntwo\n', 'three\n']);
      });

      it('ends what a command left behind, so that its output ends', async () => {
        assert.equal((await served.guest.exec('sleep 1000 & echo started')).stdout, 'started\n');
        assert.equal((await served.guest.exec('pidof sleep')).code, 1);
      });

      it('passes binary input and output whole, through a file of the export', async () => {
        const sent = randomBytes(3_000_000);
        const stdout = new PassThrough();
        const got = buffer(stdout);
        const stdin = Readable.from([sent.subarray(0, 1_000_000), sent.subarray(1_000_000)]);
        const code = await served.guest.run('cat > bytes && cat bytes', { stdin, stdout });
        stdout.end();
        assert.equal(code, 0);
        assert.ok((await got).equals(sent));
        const { stdout: sum } = await served.guest.exec('sha256sum < bytes');
        assert.equal(sum.split(' ')[0], createHash('sha256').update(sent).digest('hex'));
      });

      it('mounts several exports, and one that is read-only refuses every change', async () => {
        const { code, stderr } = await served.guest.exec(
          'cd second && mount | grep -c virtiofs; touch x; mkdir y',
        );
        assert.equal(code, 1);
        assert.match(
          stderr,
          /touch: x: Read-only file system\nmkdir: can't create directory 'y': Read-only file system/,
        );
      });

      it('is refused where a share has no socket', async () => {
        await assert.rejects(
          DaemonWithGuests.boot([{ backend: { type: 'memfs' } }], {
            shares: [{ tag: 'x', socket: '/none', mountPoint: '/mnt' }],
            accelerator,
          }),
          (error) => error instanceof GuestError && /\/none/.test(error.message),
        );
      });

      it(
        'is refused where QEMU has ended before this process comes to look',
        { timeout: 60_000 },
        async () => {
          const asleep = new Int32Array(new SharedArrayBuffer(4));
          const busy = setInterval(() => Atomics.wait(asleep, 0, 0, 300), 5);
          try {
            await assert.rejects(
              Guest.boot({ shares: [{ tag: 'x', socket: '/none', mountPoint: '/mnt' }], accelerator }),
              (error) => error instanceof GuestError && /\/none/.test(error.message),
            );
          } finally {
            clearInterval(busy);
          }
        },
      );

      it('ends when it is told to, whatever it does', async () => {
        const running = served.guest.exec('sleep 1000');
        served.guest.kill();
        await assert.rejects(running, GuestError);
        await served.guest.ended();
      });
    },
  );

/** Without KVM a microvm has nothing else that tells its clock's rate while the host is busy. */
function hostKilohertz(): number {
  const [, megahertz] = /^cpu MHz\s*: ([\d.]+)/m.exec(readFileSync('/proc/cpuinfo', 'utf8')) ?? [];
  return Math.round(Number(megahertz ?? 2000) * 1000);
}

it('a microvm mounts its shares, runs commands, and switches itself off', async () => {
  const served = await DaemonWithGuests.boot(
    [{ backend: { type: 'memfs' } }, { backend: { type: 'memfs' }, tag: 'second', readOnly: true }],
    { accelerator: 'tcg', machine: 'microvm', append: `tsc_early_khz=${hostKilohertz()}` },
  );
  try {
    const sent = randomBytes(1_000_000);
    const stdout = new PassThrough();
    const got = buffer(stdout);
    const script = `[ -e /sys/bus/pci/devices/* ] && exit 9
      cat > bytes && cat bytes; date +%s > now; touch second/x`;
    const stdin = Readable.from([sent]);
    assert.equal(await served.guest.run(script, { stdin, stdout }), 1);
    stdout.end();
    assert.ok((await got).equals(sent));
    const { stdout: now } = await served.guest.exec('cat now');
    assert.ok(Math.abs(Number(now) - Date.now() / 1000) < 600, now);
  } finally {
    await served[Symbol.asyncDispose]();
  }
  await assert.rejects(
    Guest.boot({
      shares: Array.from({ length: 24 }, () => ({ tag: 'x', socket: '/none', mountPoint: '/mnt' })),
      accelerator: 'tcg',
      machine: 'microvm',
    }),
    /at most 23 shares, not 24/,
  );
});

it('a guest of User-Mode Linux refuses what only QEMU has', async () => {
  for (const [options, what] of [
    [{ cpus: 2 }, /one processor, not 2/],
    [{ kernel: '/boot/x' }, /takes no \/boot\/x/],
    [{ qemu: 'qemu' }, /for QEMU/],
    [{ qemuArguments: ['-s'] }, /for QEMU/],
    [{ machine: 'microvm' }, /for QEMU/],
  ] as const) {
    await assert.rejects(Guest.boot({ shares: [], accelerator: 'uml', ...options }), what);
  }
});

describe('the choice of what runs a trusted guest', { skip: umlIsMissing || kvmMayWork() }, () => {
  it('is User-Mode Linux without KVM', async () => {
    assert.equal(await chooseForTrusted({}), 'uml');
  });

  it('is QEMU where the guest needs what only QEMU has, or has no room for its memory', async () => {
    assert.equal(await chooseForTrusted({ cpus: 2 }), 'tcg');
    assert.equal(await chooseForTrusted({ qemuArguments: ['-s'] }), 'tcg');
    assert.equal(await chooseForTrusted({ memory: 2 ** 40 }), 'tcg');
  });
});

function kvmMayWork(): string | false {
  return existsSync('/dev/kvm') && 'this host may have KVM';
}

it(
  'a guest of User-Mode Linux ends with its process, even if that is killed',
  { skip: umlIsMissing },
  async () => {
    const index = import.meta.resolve('../../core/guest/index.js');
    const program = `
    const { Guest } = await import(${JSON.stringify(index)});
    const guest = await Guest.boot({ shares: [], accelerator: 'uml' });
    console.log('up');
    await guest.exec('sleep 1000');`;
    const parent = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(parent.stdout, 'data');
    const children = readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, 'utf8');
    const group = Number(
      children.split(' ').find((pid) => /linux/.test(readFileSync(`/proc/${pid}/cmdline`, 'utf8'))),
    );
    process.kill(-group, 0);
    parent.kill('SIGKILL');
    await once(parent, 'exit');
    await until(() => !isThere(group), 'the end of the guest');
  },
);

function isThere(group: number): boolean {
  try {
    process.kill(-group, 0);
    return true;
  } catch {
    return false;
  }
}
