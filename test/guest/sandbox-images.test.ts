import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { after, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { TarType } from '../../core/archive/tar.js';
import { layout, tar } from '../support/images.js';
import { program } from '../support/program.js';
import { hasNoRegistry, registry } from '../support/registry.js';
import { fastest } from '../support/uml.js';

/** Where `.ci/setup test` has put what a Debian image is made of. */
const packages = fileURLToPath(new URL('../../../.cache/debian-packages', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const uml = fastest() === 'uml' ? ['--accelerator', 'uml'] : [];
const sandboxWords = ['sandbox', '--timeout', '480', '--memory', '256', ...uml];
const environment = { ...process.env, XDG_CACHE_HOME: folder };

const run = (...words: string[]): string => execFileSync(words[0]!, words.slice(1), { encoding: 'utf8' });
const hasNo = (...programs: string[]): string | false => {
  const missing = programs.filter((name) => spawnSync(name, ['--version']).error !== undefined);
  return missing.length > 0 && `not installed: ${missing.join(', ')}`;
};

/** Runs a command in a sandbox. */
async function inSandbox(
  ...words: string[]
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [program, ...sandboxWords, ...words], {
    env: environment,
    cwd: '/',
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const [stdout, stderr, [code]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close'),
  ]);
  return { code: code as number | null, stdout, stderr };
}

/** Reads on until a stream has said something. */
async function said(stream: Readable, words: RegExp): Promise<string> {
  let all = '';
  stream.setEncoding('utf8');
  for (;;) {
    const piece = stream.read() as string | null;
    if (piece !== null) all += piece;
    else if (stream.readableEnded) assert.fail(`it said only ${JSON.stringify(all)}`);
    else await Promise.race([once(stream, 'readable'), once(stream, 'end')]);
    if (words.test(all)) return all;
  }
}

const noPackages = !existsSync(packages) && 'no packages of Debian: .ci/setup test';

it(
  'an image of Debian, a layer for each package, boots to a prompt, and what it becomes others read',
  { skip: noPackages || hasNo('skopeo', 'umoci') },
  async () => {
    const archives = readdirSync(packages).map((name) =>
      execFileSync('dpkg-deb', ['--fsys-tarfile', join(packages, name)], { maxBuffer: 1 << 28 }),
    );
    const own = tar({
      'etc/passwd': { content: 'root:x:0:0:root:/root:/bin/bash\nbuild:x:1000:1000::/srv:/bin/bash\n' },
      'bin/sh': { type: TarType.SYMLINK, link: 'dash' },
      'usr/share/doc/.wh.bash': {},
    });
    const config = { Env: ['PS1=at $PWD> ', 'LANG=C'], Cmd: ['bash', '--norc'], WorkingDir: '/srv' };
    const pack = [gzipSync, (bytes: Buffer): Buffer => bytes];
    const image = layout(folder, [...archives, own], { config, pack });
    const committed = join(folder, 'committed');
    const words = [program, ...sandboxWords, '--image', image, '--commit', `${committed}:mine`];
    const terminal = spawn('script', ['-qec', [process.execPath, ...words].join(' '), '/dev/null'], {
      env: environment,
      cwd: '/',
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const ended = once(terminal, 'close');
    after(() => terminal.kill('SIGKILL'));
    await said(terminal.stdout, /at \/srv> $/);
    terminal.stdin.write('cat /etc/debian_version; echo $((6 * 7)) $LANG; ls /usr/share/doc/bash\r');
    assert.match(
      await said(terminal.stdout, /at \/srv> $/),
      /\n\d+\.\d+\r+\n42 C\r+\nls: cannot access '\/usr\/share\/doc\/bash'/,
    );
    terminal.stdin.write('echo made > /srv/made; rm /etc/debian_version; exit 3\r');
    terminal.stdout.resume();
    assert.deepEqual(await ended, [3, null]);

    const layers = archives.length + 2;
    const inspected = JSON.parse(run('skopeo', 'inspect', `oci:${committed}:mine`)) as { Layers: string[] };
    assert.equal(inspected.Layers.length, layers);
    run('umoci', 'unpack', '--image', `${committed}:mine`, join(folder, 'unpacked'));
    const root = join(folder, 'unpacked/rootfs');
    const { stdout } = await inSandbox('--root', root, '--', 'bash', '-c', 'pwd; ls /srv /home');
    assert.equal(stdout, '/\n/home:\n\n/srv:\nmade\n');
    assert.equal(readFileSync(join(root, 'srv/made'), 'utf8'), 'made\n');
    assert.ok(existsSync(join(root, 'bin/bash')));
    for (const name of ['etc/debian_version', 'usr/share/doc/bash'])
      assert.equal(existsSync(join(root, name)), false, name);
  },
);

it(
  'an image that umoci has made of busybox is run from its layout, an archive of docker save, and a registry',
  { skip: hasNo('skopeo', 'umoci') || (hasNoRegistry && 'no docker-registry') },
  async () => {
    const made = join(folder, 'made');
    const image = `${made}:1`;
    const bundle = join(folder, 'bundle');
    run('umoci', 'init', '--layout', made);
    run('umoci', 'new', '--image', image);
    run('umoci', 'unpack', '--image', image, bundle);
    for (const name of ['bin', 'etc', 'home/app'])
      mkdirSync(join(bundle, 'rootfs', name), { recursive: true });
    cpSync('/bin/busybox', join(bundle, 'rootfs/bin/busybox'));
    run('sh', '-c', `cd ${bundle}/rootfs/bin && for name in sh id pwd ls cat; do ln -s busybox $name; done`);
    writeFileSync(
      join(bundle, 'rootfs/etc/passwd'),
      'root:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\n',
    );
    run('umoci', 'repack', '--image', image, bundle);
    const settings = [
      '--config.user',
      'app',
      '--config.env',
      'FROM=image',
      '--config.workingdir',
      '/home/app',
    ];
    const start = ['--config.entrypoint', '/bin/sh', '--config.entrypoint', '-c'];
    run(
      'umoci',
      'config',
      '--image',
      image,
      ...settings,
      ...start,
      '--config.cmd',
      'id -un; pwd; echo $FROM',
    );

    const archive = join(folder, 'saved.tar');
    run('skopeo', 'copy', '-q', `oci:${image}`, `docker-archive:${archive}:some/app:1`);
    await using server = await registry(folder);
    await server.push(`oci:${image}`, 'some/app:1');
    for (const place of [image, `${archive}:some/app:1`, `docker://${server.host}/some/app:1`])
      assert.deepEqual(
        await inSandbox('--image', place),
        { code: 0, stdout: 'app\n/home/app\nimage\n', stderr: '' },
        place,
      );
    const { stdout } = await inSandbox(
      '--image',
      image,
      '--user',
      'root',
      '--cwd',
      '/',
      '--commit',
      `docker://${server.host}/some/app:2`,
      '--',
      'id -u; ls; touch /made; exit 5',
    );
    assert.equal(stdout, '0\nbin\ndev\netc\nhome\nproc\nrun\nsys\ntmp\n');
    const pushed = run('skopeo', 'inspect', '--tls-verify=false', `docker://${server.host}/some/app:2`);
    assert.equal((JSON.parse(pushed) as { Layers: string[] }).Layers.length, 2);
    const unpacked = join(folder, 'pushed');
    run(
      'skopeo',
      'copy',
      '-q',
      '--src-tls-verify=false',
      `docker://${server.host}/some/app:2`,
      `oci:${unpacked}:2`,
    );
    run('umoci', 'unpack', '--image', `${unpacked}:2`, join(folder, 'pushed-bundle'));
    assert.ok(existsSync(join(folder, 'pushed-bundle/rootfs/made')));
  },
);
