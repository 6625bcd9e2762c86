import assert from 'node:assert/strict';
import { appendFileSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Guest } from '../../core/guest/index.js';
import { serve } from '../../core/plugins/index.js';
import { keepingLog } from '../support/host-mount.js';
import { whyNoUml } from '../support/uml.js';

const AGENT = join(
  dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json'))),
  'examples/guest-agent/virtiofs-kit-agent',
);

/**
 * Prints what inotify(7) tells of a directory: inotify_init1 and inotify_add_watch by their numbers
 * on x86-64, for IN_MODIFY and IN_ATTRIB.
 */
const WATCHER = String.raw`
  my ($directory, $zero) = ($ARGV[0], 0);
  my $fd = syscall(294, $zero); my $mask = 0x6;
  syscall(254, $fd, $directory, $mask) >= 0 or die "watch: $!";
  open(my $events, "<&=", $fd) or die; $| = 1; print "ready\n";
  while (my $length = sysread($events, my $buffer, 65536)) {
    for (my $at = 0; $at < $length;) {
      my ($watch, $kind, $cookie, $bytes) = unpack("iIII", substr($buffer, $at, 16));
      my $name = unpack("Z*", substr($buffer, $at + 16, $bytes));
      printf "%s %s\n", ($kind & 2) ? "modify" : "attrib", $name; $at += 16 + $bytes;
    }
  }`;

async function hears(t: TestContext, accelerator: 'uml' | 'tcg'): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-watched-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const sharedDir = join(folder, 'share');
  mkdirSync(join(sharedDir, 'src'), { recursive: true });
  writeFileSync(join(sharedDir, 'src/main.c'), 'int main;\n');
  copyFileSync(AGENT, join(sharedDir, 'agent'));
  writeFileSync(join(sharedDir, 'watcher.pl'), WATCHER);
  const log = keepingLog();
  const socket = join(folder, 'socket');
  const daemon = await serve({
    socket,
    tag: 'share',
    watch: true,
    backend: { type: 'passthrough', sharedDir },
    log,
  });
  t.after(() => daemon.close());
  const guest = await Guest.boot({
    shares: [{ tag: 'share', socket, mountPoint: '/mnt' }],
    accelerator,
    programs: ['perl'],
    signal: t.signal,
  });
  try {
    const stdout = new PassThrough();
    const lines = createInterface({ input: stdout })[Symbol.asyncIterator]();
    const script = 'sh /mnt/agent /mnt & agent=$!; perl /mnt/watcher.pl /mnt/src & read end; kill $! $agent';
    const stdin = new PassThrough();
    const running = guest.run(['sh', '-c', script], { stdout, stdin });
    assert.equal((await lines.next()).value, 'ready');
    const times: number[] = [];
    for (let round = 0; round < 5; round++) {
      // Later than what is told of the change before, and of the agent's own beginning.
      await new Promise((resolve) => setTimeout(resolve, 400));
      const start = performance.now();
      appendFileSync(join(sharedDir, 'src/main.c'), `// ${round}\n`);
      assert.equal((await lines.next()).value, 'modify main.c');
      times.push(performance.now() - start);
    }
    writeFileSync(join(sharedDir, 'src/new.c'), 'int new;\n');
    assert.equal((await lines.next()).value, 'modify new.c');
    t.diagnostic(`from the change to the guest's line, in ms: ${times.map(Math.round).join(', ')}`);
    stdin.end('end\n');
    stdout.resume();
    await running;
    const { stdout: content } = await guest.exec('cat /mnt/src/main.c');
    assert.equal(content, `int main;\n${[0, 1, 2, 3, 4].map((i) => `// ${i}\n`).join('')}`);
  } finally {
    await guest.shutdown();
  }
  assert.deepEqual(log.lines, []);
}

test('programs in a User-Mode Linux guest hear of changes made on the host', { skip: whyNoUml() }, (t) =>
  hears(t, 'uml'),
);

// Half a minute of emulation: VIRTIOFS_KIT_WATCHED=qemu.
const isAsked = process.env['VIRTIOFS_KIT_WATCHED'] === 'qemu';
test('programs in a guest under QEMU hear of changes made on the host', { skip: !isAsked }, (t) =>
  hears(t, 'tcg'),
);
