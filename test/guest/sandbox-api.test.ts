import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { PassThrough, type Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { createHash } from 'node:crypto';
import { UsageError } from '../../core/backend/index.js';
import { TarType } from '../../core/archive/tar.js';
import { Image } from '../../core/sandbox/image/image.js';
import { sandbox, type Sandbox } from '../../core/sandbox/index.js';
import { layout, tar } from '../support/images.js';
import { program } from '../support/program.js';
import { fastest } from '../support/uml.js';
import { until } from '../support/vhost-user.js';

const machine = { accelerator: fastest(), memory: 256, timeout: 480 };
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-')));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Reads on until a stream has said something. */
async function said(stream: Readable, words: string): Promise<string> {
  let all = '';
  while (!all.includes(words)) {
    const piece = stream.read() as Buffer | null;
    if (piece !== null) all += piece.toString();
    else if (stream.readableEnded) assert.fail(`it said only ${JSON.stringify(all)}`);
    else await Promise.race([once(stream, 'readable'), once(stream, 'end')]);
  }
  return all;
}

const answering = createServer((request, response) => response.end(`host answers ${request.url}\n`));
after(() => answering.close());

/** The port of a server of this host. */
async function listeningPort(): Promise<number> {
  if (!answering.listening) await once(answering.listen(0, '127.0.0.1'), 'listening');
  return (answering.address() as AddressInfo).port;
}

/** What programs say of errors. */
const SHORT: Readonly<Record<string, string>> = {
  'No such file or directory': 'none',
  'Permission denied': 'denied',
  'Read-only file system': 'fixed',
  'Device or resource busy': 'busy',
};

/** Forks that the agent-like program makes: 20 by hand, fewer with every change. */
const FORKS = Number(process.env['VIRTIOFS_KIT_FORKS'] ?? 2);

describe('a sandbox', () => {
  let box: Sandbox;
  before(async () => {
    for (const name of ['shared', 'fixed']) mkdirSync(join(folder, name));
    writeFileSync(join(folder, 'fixed/file'), 'host\n');
    mkdirSync(join(folder, 'told/all/deep'), { recursive: true });
    for (const name of ['text', 'mode', 'gone', 'all/deep/file'])
      writeFileSync(join(folder, 'told', name), `old ${name}\n`, { mode: 0o644 });
    writeFileSync(join(folder, 'told/binary'), Buffer.from([0, 255]));
    writeFileSync(join(folder, 'told/large'), '');
    truncateSync(join(folder, 'told/large'), 20 << 20);
    symlinkSync('text', join(folder, 'told/link'));
    box = await sandbox({
      ...machine,
      mounts: {
        '/mnt/shared': join(folder, 'shared'),
        '/mnt/fixed': { source: join(folder, 'fixed'), readOnly: true },
      },
      env: { GREETING: "it's\n$HOME" },
      audit: join(folder, 'audit'),
      hide: ['/etc/apt', '/tmp/../var/mail'],
      readOnly: ['/usr/share/common-licenses'],
      deny: ['/etc/ssl', '/etc/fstab'],
      network: { allow: [`host.internal:${await listeningPort()}`] },
      redirect: {
        '/etc/os-release': '/etc/debian_version',
        '/usr/local/licenses': '/usr/share/common-licenses',
      },
    });
  });
  after(() => box.stop());

  it('gives back output, errors and exit code of a command', async () => {
    assert.deepEqual(await box.exec('cat; echo err >&2; exit 7', { stdin: 'input' }), {
      exitCode: 7,
      stdout: 'input',
      stderr: 'err\n',
    });
    assert.equal((await box.exec(['no-such-program'])).exitCode, 127);
    assert.equal((await box.exec(['/no/such/program'])).exitCode, 127);
    assert.match((await box.exec(['ls', '--version'])).stdout, /coreutils/);
    assert.equal((await box.exec('kill -TERM $$')).exitCode, 143);
    // Not even below its own file systems is there anything of this host's.
    const below = await box.exec(
      'mkdir /tmp/below && mount --bind / /tmp/below && ls -A /tmp/below/proc /tmp/below/sys; umount /tmp/below',
    );
    assert.equal(`${below.stdout}${below.stderr}`, '/tmp/below/proc:\n\n/tmp/below/sys:\n');
  });

  it('gives a command its environment, user and folder, and its words as they are', async () => {
    const script = 'printf "[%s]" "$0" "$@" "$GREETING" "$OWN" "$HOME"; pwd; id -u; id -g; id -G';
    const words = ['sh', '-c', script, 'a b', "it's", '$HOME', 'two\nlines', ''];
    const options = { env: { OWN: 'own' }, user: 'daemon', cwd: '/usr/share' };
    const { stdout, stderr } = await box.exec(words, options);
    assert.equal(
      stdout,
      `[a b][it's][$HOME][two\nlines][][it's\n$HOME][own][/usr/sbin]/usr/share\n1\n1\n1\n`,
      stderr,
    );
    assert.equal((await box.exec('id -u; id -g', { user: '4321:8765' })).stdout, '4321\n8765\n');
    assert.equal((await box.exec('true', { cwd: '/no/such' })).exitCode, 126);
    await assert.rejects(box.exec('true', { user: 'nobody-here' }), UsageError);
  });

  it('runs commands side by side, and passes millions of bytes on', async () => {
    // Each waits for the one before it, which was started after it.
    const scripts = [3, 2, 1].map(
      (n) => `while [ ! -e /tmp/side-${n - 1} ]; do sleep 0.05; done; touch /tmp/side-${n}`,
    );
    const ends = Promise.all(scripts.map((script) => box.exec(script)));
    await box.exec('touch /tmp/side-0');
    assert.deepEqual(
      (await ends).map(({ exitCode }) => exitCode),
      [0, 0, 0],
    );
    const bytes = Buffer.alloc(1_000_000, 'some text that is not the same everywhere ');
    const command = await box.spawn('tee /tmp/copy | sha256sum; cat /tmp/copy', { stdin: bytes });
    const output = await buffer(command.stdout);
    const digest = createHash('sha256').update(bytes).digest('hex');
    assert.equal(output.toString('latin1', 0, 64), digest);
    assert.ok(output.subarray(output.indexOf('\n') + 1).equals(bytes));
  });

  it('sends signals to a command, and leaves alone what that has left running', async () => {
    const command = await box.spawn(
      "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done",
    );
    await said(command.stdout, 'ready');
    await command.kill('SIGINT');
    assert.equal(await command.exitCode, 9);
    assert.equal(await text(command.stdout), 'caught\n');
    const early = await box.spawn(['sleep', '1000']);
    await early.kill('SIGKILL');
    assert.equal(await early.exitCode, 137);
    const abort = new AbortController();
    const aborted = await box.spawn(['sleep', '1000'], { signal: abort.signal });
    abort.abort();
    assert.equal(await aborted.exitCode, 137);
    assert.equal((await box.exec('sleep 1000 & echo $! > /tmp/left')).exitCode, 0);
    assert.equal((await box.exec('kill $(cat /tmp/left)')).exitCode, 0);
  });

  it('ends the input of a command that does not read it, and of one that does', async () => {
    const stdin = new PassThrough();
    const command = await box.spawn(['true'], { stdin });
    assert.equal(await command.exitCode, 0);
    const reader = await box.spawn('read -r line; echo "$line"; cat', { stdin });
    stdin.write('one\n');
    await said(reader.stdout, 'one');
    stdin.end('two\n');
    assert.equal(await text(reader.stdout), 'two\n');
    assert.equal(await reader.exitCode, 0);
  });

  it('gives a command a terminal with a size, whose keys reach it', async () => {
    const stdin = new PassThrough();
    const script = `trap 'stty size' WINCH; trap 'echo interrupted' INT
      tty; stty size; stty -echo; read -r line; echo "[$line]"; while :; do sleep 0.1; done`;
    const command = await box.spawn(script, { stdin, tty: { columns: 100, rows: 30 } });
    assert.match(await said(command.stdout, '30 100'), /^\/dev\/pts\/\d+\r\n30 100/);
    stdin.write('typed\r');
    await said(command.stdout, '[typed]');
    command.resize({ columns: 90, rows: 20 });
    await said(command.stdout, '20 90');
    stdin.write('\x03');
    await said(command.stdout, 'interrupted');
    await command.kill('SIGKILL');
    assert.equal(await command.exitCode, 137);
    const other = await box.spawn('echo over; exit 5', { tty: { columns: 80, rows: 24 } });
    assert.equal(await text(other.stdout), 'over\r\n');
    assert.equal(await other.exitCode, 5);
  });

  it('shares its files with the host, in both directions at once', async () => {
    const { files } = box;
    await box.exec('mkdir -p /srv/a; echo guest > /srv/a/file; ln -s a/file /srv/link; ln -s / /srv/top');
    assert.equal((await files.readFile('/srv/link')).toString(), 'guest\n');
    assert.equal(await files.realpath('/srv/top/srv/a/../link'), '/srv/a/file');
    await files.writeFile('/srv/link', 'from the host, longer than before\n');
    assert.equal((await box.exec('cat /srv/a/file')).stdout, 'from the host, longer than before\n');
    await files.mkdir('/srv/b/c');
    await files.writeFile('/srv/b/c/own', 'x', { mode: 0o640, uid: 1, gid: 2 });
    await files.rename('/srv/b/c/own', '/srv/b/moved');
    assert.equal(
      (await box.exec('stat -c "%a %u %g" /srv/b/moved; ls /srv/b/c | wc -l')).stdout,
      '640 1 2\n0\n',
    );
    await files.rm('/srv/a');
    assert.equal((await box.exec('ls /srv')).stdout, 'b\nlink\ntop\n');
    assert.deepEqual((await files.readdir('/srv')).map(({ name }) => name).sort(), ['b', 'link', 'top']);
    assert.equal(await files.exists('/srv/a'), false);
    await assert.rejects(files.readFile('/srv/a/file'), { code: 'ENOENT', path: '/srv/a/file' });
    await assert.rejects(files.readFile('/srv/b'), { code: 'EISDIR' });
    assert.equal(existsSync('/srv/b'), false);
  });

  it('tells what is changed, by the guest and by the host', async () => {
    const stop = new AbortController();
    const events = box.watch('/srv/watched', { signal: stop.signal });
    await box.exec(
      'mkdir -p /srv/watched; echo x > /srv/watched/a; mv /srv/watched/a /srv/watched/b; rm /srv/watched/b',
    );
    await box.files.writeFile('/srv/watched/host', 'x');
    await box.exec('touch /srv/elsewhere');
    stop.abort();
    const told: string[] = [];
    for await (const { kind, path } of events) told.push(`${kind} ${path.replace('/srv/watched', '')}`);
    const names = told.filter((line) => !line.startsWith('changed'));
    assert.deepEqual(names, ['added ', 'added /a', 'removed /a', 'added /b', 'removed /b', 'added /host']);
    assert.ok(told.includes('changed /a'), told.join());
  });

  it('shows what has changed with what was there before, and writes it as a patch', async () => {
    const place = join(folder, 'told');
    const script = `echo new > text; chmod 711 mode; chown 5:6 mode; rm -r gone all; echo made > made
      printf '\\0\\1' > binary; printf x >> large; ln -sfn mode link`;
    assert.equal((await box.exec(script, { cwd: place })).exitCode, 0);
    const changes = await box.diff(place);
    const lines = await Promise.all(
      changes.map(async (change) => {
        const aspects = (await change.aspects()).filter((aspect) => aspect !== 'mtime');
        return `${change.kind} ${relative(place, change.path)} ${aspects.join(' ')}`.trim();
      }),
    );
    assert.deepEqual(lines, [
      'removed all',
      'changed binary content',
      'removed gone',
      'changed large content',
      'changed link target',
      'added made',
      'changed mode mode owner',
      'changed text content',
    ]);
    const at = (name: string) => changes.find(({ path }) => path === join(place, name))!;
    const contents = await Promise.all([
      at('text').before(),
      at('text').after(),
      at('gone').before(),
      at('made').after(),
      at('binary').before(),
      at('binary').after(),
    ]);
    assert.deepEqual(await Promise.all(contents.map((version) => version!.bytes())), [
      Buffer.from('old text\n'),
      Buffer.from('new\n'),
      Buffer.from('old gone\n'),
      Buffer.from('made\n'),
      Buffer.from([0, 255]),
      Buffer.from([0, 1]),
    ]);
    let length = 0;
    for await (const part of (await at('large').after())!.stream()) length += (part as Buffer).length;
    assert.equal(length, (20 << 20) + 1);
    const old = await at('link').before();
    assert.equal(old!.target, 'text');
    const below: string[] = [];
    for await (const { path } of at('all').removedBelow()) below.push(relative(place, path));
    assert.deepEqual(below, ['all/deep', 'all/deep/file']);
    const file = join(folder, 'told.patch');
    await box.patch(file, place);
    const patch = readFileSync(file, 'utf8').replaceAll(place.slice(1), 'told');
    assert.match(patch, /^--- a\/told\/text\n\+\+\+ b\/told\/text\n@@ -1 \+1 @@\n-old text\n\+new\n/m);
    assert.match(patch, /^deleted file mode 100644\n--- a\/told\/all\/deep\/file\n\+\+\+ \/dev\/null/m);
    assert.match(patch, /^# told\/mode: owner 0:0 -> 5:6\ndiff .*\nold mode 100644\nnew mode 100711$/m);
    assert.match(patch, /^Binary files a\/told\/binary and b\/told\/binary differ$/m);
    assert.match(patch, /^# told\/large: 20971520 -> 20971521 bytes, too long/m);
  });

  it('reaches what it may by the proxy, and nothing else, and is reached where it listens', async () => {
    const busybox = '/run/virtiofs-kit/busybox';
    const asked = async (name: string, answer: string): Promise<void> => {
      const stdin = new PassThrough();
      const command = await box.spawn([busybox, 'nc', '127.0.0.1', '3128'], { stdin });
      stdin.write(`GET http://${name}/asked HTTP/1.0\r\n\r\n`);
      await said(command.stdout, answer);
      await command.kill('SIGKILL');
    };
    await asked(`host.internal:${await listeningPort()}`, 'host answers /asked');
    await asked('host.internal:1', 'host.internal:1: not allowed by this sandbox');
    const { stdout } = await box.exec(`exec 2>&1; echo $http_proxy
      ${busybox} nc -w 5 10.0.2.2 80 </dev/null; ls /sys/class/net; ${busybox} ip route | wc -l`);
    const [proxy, direct, ...rest] = stdout.trim().split('\n');
    assert.equal(proxy, 'http://127.0.0.1:3128');
    assert.match(direct ?? '', /unreachable/, stdout);
    assert.deepEqual(
      rest.filter((name) => !/^(lo|sit0|tunl0|dummy0)$/.test(name)),
      ['0'],
      stdout,
    );
    const serving = await box.spawn(
      'while :; do printf "HTTP/1.0 200 OK\\r\\n\\r\\nguest" | /run/virtiofs-kit/busybox nc -l -p 8080; done',
    );
    for (const ports of [[0], [1.5], [70_000], [80, 70_000], [80, -1]])
      await assert.rejects(box.publish(ports[0]!, ports[1]), /port [-.\d]+: 1 to 65535/);
    const port = await box.publish(8080);
    let page = '';
    while (page !== 'guest') {
      page = await fetch(`http://127.0.0.1:${port}/`).then(
        (answer) => answer.text(),
        () => '',
      );
    }
    await serving.kill('SIGKILL');
    await serving.exitCode;
  });

  it('writes to mounted directories for real, where it may', async () => {
    const script = 'echo kept > /mnt/shared/file; cat /mnt/fixed/file; echo x > /mnt/fixed/file';
    const { stdout, stderr, exitCode } = await box.exec(script);
    assert.equal(stdout, 'host\n');
    assert.match(stderr, /Read-only file system/);
    assert.notEqual(exitCode, 0);
    assert.equal(readFileSync(join(folder, 'shared/file'), 'utf8'), 'kept\n');
  });

  it('tells in a log what is read, changed and refused', async () => {
    await box.exec(
      'mkdir /srv/told; cat /usr/share/common-licenses/BSD; echo x > /mnt/shared/told; cat /etc/fstab',
    );
    const lines = (): { operation: string; path: string; result: string }[] =>
      readFileSync(join(folder, 'audit'), 'utf8')
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line) as never);
    const has = (operation: string, path: string, result = 'ok'): boolean =>
      lines().some((one) => one.operation === operation && one.path === path && one.result === result);
    await until(
      () =>
        has('MKDIR', '/srv/told') &&
        has('OPEN', '/usr/share/common-licenses/BSD') &&
        has('WRITE', '/mnt/shared/told') &&
        lines().some(({ path, result }) => path === '/etc/fstab' && result === 'EACCES'),
      'the lines',
    );
    assert.equal(
      lines().some(({ path }) => path.startsWith('/next')),
      false,
    );
  });

  it('holds its rules against renames, links, dots and whatever else leads there', async () => {
    const script = `exec 2>&1; cd /tmp
      ls -a /etc | grep -c '^apt$'; ls -d /etc/apt /etc/../etc/apt /proc/self/root/etc/apt
      mkdir /etc/apt; ln -s /etc/apt link; ls link/; mv /etc moved; mv bin /etc/apt; rm -rf /etc/apt; ls /etc/apt
      ls /var/mail
      cd /usr/share/common-licenses; echo x > GPL-3; rm GPL-3; touch new; chmod 777 GPL-3; ln GPL-3 /tmp/hard
      mv GPL-3 /tmp/moved; mv /tmp/link .; mv /usr/share/common-licenses /tmp/licenses; mv /usr/share /tmp/share
      ln -s /usr/share/common-licenses/GPL-3 /tmp/soft; echo x > /tmp/soft; head -c 20 GPL-3 | wc -c`;
    const { stdout } = await box.exec(script);
    const said = stdout.split('\n').map((line) => line.replace(/^.*: /, ''));
    assert.equal(said.shift(), '0');
    assert.equal(said.splice(-2).join(), '20,');
    for (const reason of said)
      assert.match(
        reason,
        /^(No such file or directory|Permission denied|Device or resource busy|Read-only file system|Invalid cross-device link)$/,
        stdout,
      );
    assert.equal(said.filter((reason) => reason === 'Read-only file system').length >= 6, true, stdout);
    assert.ok((await box.files.readdir('/etc/apt')).length > 0);
    assert.deepEqual(
      (await box.files.readdir('/usr/share/common-licenses')).length,
      readdirSync('/usr/share/common-licenses').length,
    );
  });

  it('holds them against mounts and handles, denies, and shows other files at a path', async () => {
    const script = `exec 2>&1; cd /tmp; mkdir seen
      mount --bind / seen && ls seen/etc/apt; cat seen/etc/fstab; umount seen
      mount --bind /etc seen && ls seen/apt; cat seen/ssl/openssl.cnf; ls seen/ssl; umount seen
      ls -a /etc | grep -cx 'ssl\\|fstab'; mv /etc/ssl /tmp/ssl; rm -r /etc/ssl; touch /etc/fstab; chmod 777 /etc/ssl
      cmp /etc/os-release /etc/debian_version && cmp /usr/local/licenses/GPL-3 /usr/share/common-licenses/GPL-3; echo x > /usr/local/licenses/new
      rm /etc/os-release; ls /usr/local/licenses/..//licenses/../../../etc/apt; echo over`;
    const { stdout } = await box.exec(script);
    assert.deepEqual(
      stdout
        .trim()
        .split('\n')
        .map((line) => SHORT[line.replace(/^.*: /, '')] ?? line),
      'none denied none denied denied 2 denied denied denied denied fixed busy none over'.split(' '),
      stdout,
    );
    assert.ok((await box.files.readdir('/etc/ssl')).length > 0);
  });

  it('forks while it works, for an agent that tries several ways and merges the best', async (t) => {
    const before = readFileSync('/etc/passwd', 'utf8');
    const script = `mkdir -p /srv/work; cd /srv/work; echo 100 > score; echo old > unused
      while [ "$(cat score)" = 100 ]; do sleep 0.1; done; echo "now $(cat score)"; ls`;
    const running = await box.spawn(script);
    while (!(await box.files.exists('/srv/work/unused'))) await sleep(50);
    const start = performance.now();
    const forks = await box.fork(FORKS, { mounts: {} });
    t.diagnostic(`${FORKS} forks in ${((performance.now() - start) / 1000).toFixed(1)} s`);
    try {
      const scores = await Promise.all(
        forks.map(async (fork, index) => {
          const patch = `cd /srv/work; echo $((50 + (${index} * 7) % ${FORKS})) > score; rm unused; touch by-${index}`;
          const { exitCode } = await fork.exec(`${patch}; echo evil >> /etc/passwd`);
          assert.equal(exitCode, 0);
          return Number((await fork.exec('cat /srv/work/score')).stdout);
        }),
      );
      const best = scores.indexOf(Math.min(...scores));
      const merged = (await box.merge(forks[best]!)).map(({ kind, path }) => `${kind} ${path}`);
      assert.deepEqual(merged.toSorted(), [
        `added /srv/work/by-${best}`,
        'changed /etc/passwd',
        'changed /srv/work/score',
        'removed /srv/work/unused',
      ]);
      await assert.rejects(box.merge(box), /cannot be merged into itself/);
      assert.equal(await running.exitCode, 0);
      assert.equal(await text(running.stdout), `now 50\nby-${best}\nscore\n`);
    } finally {
      await Promise.all(forks.map((fork) => fork.stop()));
    }
    assert.equal(readFileSync('/etc/passwd', 'utf8'), before);
    assert.equal(existsSync('/srv/work'), false);
  });

  it('forks with its files, and each fork goes its own way and ends', async () => {
    await box.exec('echo common > /opt/common; rm -rf /usr/share/doc/base-files');
    const forks = await box.fork(1, { mounts: {} });
    try {
      await box.exec('echo parent > /opt/own');
      const { stdout } = await forks[0]!.exec('ls /opt; echo fork > /opt/own; cat /opt/common /opt/own');
      assert.match(stdout, /^(?!.*own)[^]*common\nfork\n$/);
      assert.equal((await box.exec('cat /opt/own')).stdout, 'parent\n');
      const changes = (await forks[0]!.diff()).map(({ kind, path }) => `${kind} ${path}`);
      for (const change of ['added /opt/own', 'added /opt/common', 'removed /usr/share/doc/base-files'])
        assert.ok(changes.includes(change), change);
      const command = await forks[0]!.spawn(['sleep', '1000']);
      await forks[0]!.stop();
      await assert.rejects(command.exitCode, /the sandbox has ended/);
      await assert.rejects(forks[0]!.exec('true'), /the sandbox has ended/);
    } finally {
      await Promise.all(forks.map((fork) => fork.stop()));
    }
    const layer = new PassThrough();
    const archive = buffer(layer);
    await box.export(layer);
    layer.end();
    assert.ok((await archive).includes('usr/share/doc/.wh.base-files\0'));
    assert.ok(existsSync('/usr/share/doc/base-files'));
  });
});

it('an image gives a sandbox its files, environment, user and folder, and takes changes as a layer', async () => {
  const busybox = readFileSync('/bin/busybox');
  const layers = [
    tar({
      'bin/busybox': { content: busybox, mode: 0o755 },
      'bin/sh': { type: TarType.SYMLINK, link: 'busybox' },
      'bin/cat': { type: TarType.SYMLINK, link: 'busybox' },
      'etc/passwd': { content: 'root:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\n' },
      'etc/group': { content: 'crew:x:9:\n' },
      'etc/removed': { content: 'x' },
    }),
    tar({ 'etc/.wh.removed': {}, 'srv/': { type: TarType.DIRECTORY, mode: 0o777 } }),
  ];
  const config = {
    User: 'app:crew',
    Env: ['FROM=image', 'OTHER=image'],
    WorkingDir: '/srv/made',
    Entrypoint: ['/bin/busybox'],
    Cmd: ['id'],
  };
  const target = join(folder, 'committed');
  {
    await using box = await sandbox({
      ...machine,
      image: layout(folder, layers, { config }),
      env: { OTHER: 'own' },
      size: 4 << 20,
      files: 100,
    });
    assert.deepEqual(await box.exec(box.command()), {
      exitCode: 0,
      stdout: 'uid=7(app) gid=9(crew)\n',
      stderr: '',
    });
    const { stdout } = await box.exec('pwd; echo $FROM $OTHER $HOME; cat /etc/removed || echo gone');
    assert.equal(stdout, '/srv/made\nimage own /home/app\ngone\n');
    const full = await box.exec(`busybox dd if=/dev/zero of=/srv/full bs=64k count=99; busybox rm /srv/full
      i=0; while [ $i -lt 200 ] && busybox touch /srv/$i 2>/dev/null; do i=$((i + 1)); done; echo $i
      busybox touch /srv/over; busybox rm /srv/[0-9]*; echo over > /srv/over && cat /srv/over; busybox rm /srv/over`);
    assert.match(full.stderr, /writing '\/srv\/full': No space left on device\n/);
    assert.match(full.stderr, /\/srv\/over: No space left on device\n$/);
    assert.match(full.stdout, /^(9\d|8\d)\nover\n$/);
    assert.equal(box.usage().bytes < 4 << 20, true);
    await box.exec('echo new > /srv/new; busybox rm /etc/group', { user: 'root' });
    await box.commit(target, 'next');
  }
  const image = await Image.open(`${target}:next`);
  assert.equal(image.layers.length, 3);
  assert.deepEqual(image.config.entrypoint, ['/bin/busybox']);
  const silent = (): void => {};
  const snapshot = await image.load({ debug: silent, info: silent, warn: silent, error: silent });
  const volume = snapshot.fork();
  assert.equal(volume.readFileSync('/srv/new', 'utf8'), 'new\n');
  assert.equal(volume.existsSync('/etc/group'), false);
});

it('a sandbox that cannot be is refused at once', async () => {
  await assert.rejects(sandbox({ ...machine, cwd: '/dev/shm/x' }), /has its own \/dev/);
  await assert.rejects(sandbox({ ...machine, cwd: '/no/such' }), /cwd \/no\/such: no such folder/);
  await assert.rejects(sandbox({ ...machine, user: 'nobody-here' }), /has no user nobody-here/);
  await assert.rejects(sandbox({ ...machine, mounts: { '/x': '/no/such' } }), /no such directory/);
  await assert.rejects(sandbox({ ...machine, root: '/no/such' }), /no such/);
});

it('what a killed process has left of its sandbox is removed by the next one, which has a terminal', async () => {
  const temporary = join(folder, 'temporary');
  mkdirSync(temporary);
  const uml = machine.accelerator === undefined ? '' : `--accelerator ${machine.accelerator}`;
  const options = {
    env: { ...process.env, TMPDIR: temporary, PROGRAM: `${process.execPath} ${program} sandbox ${uml}` },
    cwd: '/',
  };
  const waiting = 'while :; do sleep 0.1; done';
  const killed = spawn('sh', ['-c', `exec $PROGRAM -- sh -c "trap 'echo caught' INT; echo up; ${waiting}"`], {
    ...options,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  after(() => killed.kill('SIGKILL'));
  await said(killed.stdout, 'up');
  killed.kill('SIGINT');
  await said(killed.stdout, 'caught');
  const machines = childrenOf(killed.pid!);
  assert.ok(machines.length > 0);
  killed.kill('SIGKILL');
  await once(killed, 'exit');
  assert.equal(readdirSync(temporary).length, 1);
  await until(() => !machines.some((pid) => isThere(pid)), 'the end of its machine');
  const script = `trap "echo caught; exit 9" INT; echo $A; id -un; pwd; tty; ${waiting}`;
  const words = `$PROGRAM -t --env A=b --user daemon --cwd /usr -- sh -c '${script}'`;
  const next = spawn('script', ['-qec', words, '/dev/null'], {
    ...options,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(next, 'exit');
  after(() => next.kill('SIGKILL'));
  assert.match(await said(next.stdout, '/dev/pts'), /^b\r+\ndaemon\r+\n\/usr\r+\n/);
  next.stdin.write('\x03');
  assert.match(await text(next.stdout), /caught\r+\n$/);
  assert.deepEqual(await ended, [9, null]);
  assert.deepEqual(readdirSync(temporary), []);
});

it('the second Ctrl-C ends a sandbox whose command goes on', async () => {
  const temporary = join(folder, 'interrupted');
  mkdirSync(temporary);
  const uml = machine.accelerator === undefined ? [] : ['--accelerator', machine.accelerator];
  const script = "trap 'echo caught' INT; echo up; while :; do sleep 0.1; done";
  const child = spawn(process.execPath, [program, 'sandbox', ...uml, '--', 'sh', '-c', script], {
    env: { ...process.env, TMPDIR: temporary },
    cwd: '/',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  after(() => child.kill('SIGKILL'));
  const ended = once(child, 'exit');
  await said(child.stdout, 'up');
  child.kill('SIGINT');
  await said(child.stdout, 'caught');
  const machines = childrenOf(child.pid!);
  child.kill('SIGINT');
  assert.deepEqual(await ended, [130, null]);
  await until(() => !machines.some((pid) => isThere(pid)), 'the end of its machine');
});

it('a program gives its terminal to a shell, gets it back, and ends by itself', async () => {
  const source = `import { sandbox } from '${import.meta.resolve('../../core/sandbox/index.js')}';
    const box = await sandbox({ ...${JSON.stringify(machine)}, memory: 256 });
    console.log(\`code \${await box.shell()} \${process.stdin.isRaw}\`);
    console.log(\`code \${await box.shell('echo again; exit 4')}\`);
    await box.stop();`;
  const file = join(folder, 'shell.mjs');
  writeFileSync(file, source);
  const terminal = spawn(
    'script',
    ['-qec', `stty cols 77 rows 11; ${process.execPath} ${file}`, '/dev/null'],
    {
      stdio: ['pipe', 'pipe', 'inherit'],
    },
  );
  after(() => terminal.kill('SIGKILL'));
  const ended = once(terminal, 'close');
  await said(terminal.stdout, '# ');
  terminal.stdin.write('stty size; echo $((6 * 7)); exit 3\r');
  const rest = await text(terminal.stdout);
  assert.match(rest, /\n11 77\r+\n42\r+\n[^]*code 3 false\r+\nagain\r+\ncode 4\r+\n$/);
  assert.deepEqual(await ended, [0, null]);
  const { status, stderr } = spawnSync(process.execPath, [file], { input: '', encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /a shell needs a terminal/);
});

function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
}

function isThere(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}

it('detached sandboxes run on in one process, and are used, forked, told of and ended by their names', async () => {
  const runtime = join(folder, 'runtime');
  mkdirSync(runtime, { mode: 0o700 });
  const run = async (...words: string[]) => {
    const child = spawn(process.execPath, [program, 'sandbox', ...words], {
      env: { ...process.env, XDG_RUNTIME_DIR: runtime },
      cwd: '/',
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    child.stdin.end('input');
    const [stdout, stderr, [code]] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      once(child, 'exit'),
    ]);
    return { code: code as number | null, stdout, stderr };
  };
  const uml = machine.accelerator === undefined ? [] : ['--accelerator', machine.accelerator];
  const options = ['--timeout', '480', '--memory', '256', ...uml];
  after(async () => {
    for (const name of (await run('ps')).stdout.split('\n')) if (name !== '') await run('rm', name);
  });
  // Two that are the first at the same time.
  const started = await Promise.all(
    ['box', 'other'].map((name) =>
      run('run', '--detach', '--name', name, '--env', `NAME=${name}`, ...options),
    ),
  );
  assert.deepEqual(
    started,
    ['box\n', 'other\n'].map((stdout) => ({ code: 0, stdout, stderr: '' })),
  );
  const places = join(runtime, `virtiofs-kit-sandboxes-${process.getuid!()}`);
  const holders = holdersBelow(join(places, 'processes'));
  assert.equal(holders.length, 1);
  for (const name of ['box', 'other'])
    assert.equal((await run('exec', name, 'sh', '-c', 'echo $NAME')).stdout, `${name}\n`);
  const script = 'cat; echo " $A"; pwd; id -un; touch /etc/made; kill -KILL $$';
  assert.deepEqual(await run('exec', '-e', 'A=b', '--cwd', '/usr', 'box', 'sh', '-c', script), {
    code: 137,
    stdout: 'input b\n/usr\nroot\n',
    stderr: '',
  });
  assert.equal((await run('fork', 'box')).stdout, 'box-1\n');
  assert.equal(
    (await run('exec', 'box-1', 'sh', '-c', 'ls /etc/made; rm /etc/made; touch /etc/own')).code,
    0,
  );
  const [ps, one, other, committed] = await Promise.all([
    run('ps'),
    run('diff', 'box'),
    run('diff', 'box-1'),
    run('commit', 'box-1', `${folder}/image:mine`),
  ]);
  assert.equal(ps.stdout, 'box\nbox-1\nother\n');
  assert.equal(one.stdout, 'added /etc/made\n');
  assert.equal(other.stdout, 'added /etc/own\n');
  assert.equal(committed.code, 0);
  const file = join(folder, 'told-to-all');
  writeFileSync(file, 'old\n', { mode: 0o644 });
  await run('exec', 'box', 'sh', '-c', `echo news > ${file}; chmod 600 ${file}; touch ${file}-2`);
  const [list, long, unified, unclear] = await Promise.all([
    run('diff', 'box', file),
    run('diff', '--long', 'box', file),
    run('diff', '--unified', 'box', file),
    run('diff', '--long', '--unified', 'box'),
  ]);
  assert.equal(list.stdout, `changed ${file}\n`);
  assert.equal(long.stdout, `changed ${file} (content 4 bytes -> 5 bytes, mode 644 -> 600, mtime)\n`);
  assert.equal(
    unified.stdout,
    `diff --git a${file} b${file}
old mode 100644
new mode 100600
--- a${file}
+++ b${file}
@@ -1 +1 @@
-old
+news
`,
  );
  assert.equal(unclear.code, 2);
  assert.equal((await Image.open(`${folder}/image:mine`)).layers.length, 1);
  const refused = await Promise.all([
    run('run', '--detach', '--name', 'box'),
    run('run', '--detach', '--name', 'x', '--cwd', '/dev/shm/x'),
    run('exec', 'boxx', 'true'),
  ]);
  assert.match(refused[0]!.stderr, /there is a sandbox of that name/);
  assert.match(refused[1]!.stderr, /has its own \/dev/);
  assert.match(refused[2]!.stderr, /boxx: no such sandbox; there are box, box-1, other/);
  for (const { code } of refused) assert.equal(code, 2);
  assert.deepEqual(await run('write', 'box', '/srv/put'), { code: 0, stdout: '', stderr: '' });
  assert.equal((await run('read', 'box', '/srv/put')).stdout, 'input');
  assert.equal((await run('list', 'box', '/srv')).stdout, 'put\n');
  assert.equal((await run('exec', 'box', 'rm', '/srv/put')).code, 0);
  // Whoever reads has had enough: that ends it, also in the midst of a file.
  await run('exec', 'box', 'truncate', '-s', '1G', '/srv/long');
  const reading = spawn(process.execPath, [program, 'sandbox', 'read', 'box', '/srv/long'], {
    env: { ...process.env, XDG_RUNTIME_DIR: runtime },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const readingEnded = once(reading, 'exit');
  reading.stdout.once('data', () => reading.stdout.destroy());
  assert.equal(await text(reading.stderr), '');
  assert.deepEqual(await readingEnded, [141, null]);
  assert.equal((await run('exec', 'box', 'rm', '/srv/long')).code, 0);
  const port = (await run('publish', 'box', '0:8080')).stdout.trim();
  const serving = run('exec', 'box', 'sh', '-c', 'printf page | /run/virtiofs-kit/busybox nc -l -p 8080');
  let page = '';
  while (page !== 'page') {
    const socket = connect(Number(port), '127.0.0.1').on('error', () => {});
    page = await text(socket).catch(() => '');
  }
  assert.equal((await serving).code, 0);
  assert.match((await run('publish', 'other', `${port}:8080`)).stderr, /publish \d+:8080: .*EADDRINUSE/);
  const none = await run('read', 'box', '/srv/put');
  assert.equal(none.code, 2);
  assert.match(none.stderr, /ENOENT/);
  const merged = await run('merge', 'box', 'box-1');
  assert.deepEqual([merged.code, merged.stdout], [0, 'removed /etc/made\nadded /etc/own\n']);
  const watching = spawn(process.execPath, [program, 'sandbox', 'watch', 'box', '/etc/own'], {
    env: { ...process.env, XDG_RUNTIME_DIR: runtime },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const told: string[] = [];
  watching.stdout.on('data', (part: Buffer) => told.push(part.toString()));
  const watched = once(watching, 'exit');
  while (told.length === 0) await run('exec', 'box', 'touch', '/etc/own');
  assert.equal((await run('rm', 'box', 'box-1')).code, 0);
  assert.deepEqual(await watched, [0, null]);
  assert.match(told.join(''), /^(changed \/etc\/own\n)+$/);
  // A process that is killed leaves nothing behind.
  const machines = childrenOf(holders[0]!);
  const holding = run('exec', 'other', 'sleep', '1000');
  await until(() => readdirSync(places).includes('other.sock'), 'the other one');
  process.kill(holders[0]!, 'SIGKILL');
  assert.match((await holding).stderr, /other: .*|the sandbox has ended/);
  await until(() => !machines.some((pid) => isThere(pid)), 'the end of its machines');
  assert.equal((await run('ps')).stdout, '');
  assert.deepEqual(
    readdirSync(places, { recursive: true }).filter((name) => name !== 'processes'),
    [],
  );
});

/** The processes that have a lock in a folder, by their ids. */
function holdersBelow(folder: string): number[] {
  const inodes = readdirSync(folder)
    .filter((name) => name.endsWith('.lock'))
    .map((name) => statSync(join(folder, name)).ino);
  const locks = readFileSync('/proc/locks', 'latin1').matchAll(/FLOCK .* (\d+) [0-9a-f:]+:(\d+) /g);
  return Array.from(locks).flatMap(([, pid, inode]) => (inodes.includes(Number(inode)) ? Number(pid) : []));
}
