import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { serialize } from 'node:v8';
import { LAYERS } from '../../../../core/plugins/index.js';
import { landlockVersion } from '../../../../core/system/confinement/landlock.js';
import { PAGE_SIZE } from '../../../../core/system/index.js';
import { serve } from '../../../support/confined-daemon.js';
import { freePort } from '../../../support/free-port.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../../../support/vhost-user.js';
import { FrontEnd } from '../../../support/front-end.js';

const skip = process.geteuid!() === 0 && landlockVersion() > 0 ? {} : { skip: 'needs root and Landlock' };

function share(t: TestContext): string {
  const folder = join(temporaryFolder(t), 'share');
  mkdirSync(folder);
  return folder;
}

test('serve confines itself by default and answers a front-end', skip, async (t) => {
  const folder = share(t);
  const { said, text, socket, pid, end } = await serve(t, folder);
  const confined = said.find(({ msg }) => msg === 'confined');
  assert.equal(confined?.['seccomp'], 'errno', text);
  assert.match(String(confined?.['landlock']), /^version \d+$/);
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  assert.match(status, /^NoNewPrivs:\s*1$/m);
  assert.match(status, /^Seccomp:\s*2$/m);

  const frontEnd = await FrontEnd.connect(socket, { requestQueues: 2 });
  const fuse = new FuseClient(fuseTransport(frontEnd));
  await fuse.init();
  const { entry, open } = await fuse.create(ROOT, 'file');
  await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
  assert.equal(readFileSync(join(folder, 'file'), 'utf8'), 'content');
  frontEnd.close();
  assert.equal(await end(), 0);
});

test('a confined daemon, whose network is its own, serves metrics on a port of the host', skip, async (t) => {
  const port = await freePort();
  const { said, text, socket, pid, end } = await serve(t, share(t), {
    words: ['--metrics', `${port}`, '--log-level', 'debug'],
    until: 'sealed',
  });
  assert.equal(said.find(({ msg }) => msg === 'serving metrics')?.['port'], port, text);
  assert.notEqual(readlinkSync(`/proc/${pid}/ns/net`), readlinkSync('/proc/self/ns/net'));
  const frontEnd = await FrontEnd.connect(socket);
  const fuse = new FuseClient(fuseTransport(frontEnd));
  await fuse.init();
  const answer = await fetch(`http://127.0.0.1:${port}/metrics`);
  assert.equal(answer.status, 200);
  assert.match(await answer.text(), /^virtiofs_kit_requests_total\{export="confined",opcode="INIT"\} 1$/m);
  frontEnd.close();
  assert.equal(await end(), 0);
});

test(
  'threads of a confined daemon serve after it has given up the right to make machine code',
  skip,
  async (t) => {
    const words = ['--io-threads', '1', '--queue-threads', '2', '--log-level', 'debug'];
    const { said, text, socket, end } = await serve(t, share(t), { words, until: 'sealed' });
    assert.equal(said.at(-1)?.['msg'], 'sealed', text);
    const frontEnd = await FrontEnd.connect(socket, { requestQueues: 2 });
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    const { entry, open } = await fuse.create(ROOT, 'file');
    const content = Buffer.alloc(100_000, 'content');
    await fuse.write(entry.nodeid, open.fh, 0, content);
    for (let round = 0; round < 2000; round++) {
      const read = await fuse.read(entry.nodeid, open.fh, 0, content.length);
      assert.ok(content.equals(read));
    }
    frontEnd.close();
    assert.equal(await end(), 0);
  },
);

test('machine code that requests need is there before no more can be made', skip, async (t) => {
  const { text, pid, end } = await serve(t, '', {
    backend: ['--backend', 'memfs'],
    words: ['--log-level', 'debug'],
    until: 'sealed',
  });
  assert.match(text, /sealed/);
  // A page each: what makes lists of system calls, and what survives lost guest memory.
  const regions = readFileSync(`/proc/${pid}/maps`, 'utf8').matchAll(/^(\S+)-(\S+) r-xp 0+ 00:00 0\s*$/gm);
  const bytes = [...regions].map(([, from, to]) => Number(`0x${to}`) - Number(`0x${from}`));
  assert.equal(
    bytes.reduce((sum, each) => sum + each, 0),
    2 * PAGE_SIZE,
  );
  assert.equal(await end(), 0);
});

test('a program that lies in an unusual folder, even in the share, is executed anew', skip, async (t) => {
  const folder = share(t);
  const node = join(folder, 'node');
  copyFileSync(process.execPath, node);
  const { said, text, end } = await serve(t, folder, { node });
  assert.equal(said.at(-1)?.['msg'], 'serving', text);
  assert.equal(await end(), 0);
});

test('a confinement that only the environment tells of is not believed', skip, async (t) => {
  const folder = share(t);
  const report = JSON.stringify({ mounts: 'own', landlock: 'version 7', capabilities: '', seccomp: 'errno' });
  for (const claim of [report, `1 1 ${report}`]) {
    const { said, pid, text, end } = await serve(t, folder, {
      environment: { VIRTIOFS_KIT_CONFINED: claim },
    });
    assert.equal(said.at(-1)?.['msg'], 'serving', text);
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    assert.equal(BigInt(`0x${/^CapPrm:\s*(.*)$/m.exec(status)![1]!}`) & ~0x880000dfn, 0n);
    await end();
  }
  // The shell becomes the daemon: the process, and so its number and time of start, are the same.
  const claim = join(folder, 'claim');
  writeFileSync(
    claim,
    `#!/bin/sh
set -- "$@"
stat=$(cat /proc/$$/stat); set -f; ticks=$(echo "\${stat##*) }" | cut -d' ' -f20)
VIRTIOFS_KIT_CONFINED="$$ $ticks 9" exec ${process.execPath} "$@" 9<"$LEFT"
`,
    { mode: 0o755 },
  );
  const wanted = {
    layers: LAYERS,
    missingLayers: 'error',
    seccompAction: 'errno',
    capabilities: [],
    reads: [],
  };
  const plan = { options: { exports: [] }, logConfig: { level: 'info', format: 'json' }, notifies: false };
  const forged = {
    wanted,
    needs: { paths: [{ path: folder, write: true, shared: true }] },
    socketFolders: [],
    report: { mounts: 'own', network: 'own', landlock: 'version 7', capabilities: '', seccomp: 'errno' },
    given: { plan, checked: [] },
  };
  const left = join(folder, 'left');
  for (const [bytes, reason] of [
    [serialize(forged), 'privileges can be gained'],
    [serialize({ ...forged, report: undefined }), 'it cannot be read'],
    [Buffer.from('not what the first program leaves'), 'it cannot be read \\(.*\\)'],
  ] as const) {
    writeFileSync(left, bytes);
    const { text, end } = await serve(t, folder, { node: claim, environment: { LEFT: left } });
    assert.match(
      text,
      new RegExp(`VIRTIOFS_KIT_CONFINED is in the environment, but ${reason}: unset it and start again$`),
    );
    assert.equal(await end(), 2);
  }
});

test('a layer that cannot be had ends the start, or is warned of', skip, async (t) => {
  const folder = share(t);
  // Without CAP_SYS_ADMIN there are no mounts of its own.
  const node = join(folder, 'lesser');
  writeFileSync(node, `#!/bin/sh\nexec setpriv --bounding-set -sys_admin ${process.execPath} "$@"\n`, {
    mode: 0o755,
  });
  const refused = await serve(t, folder, { node });
  assert.match(refused.text, /--confine mounts: cannot be had: .*--missing-layers warn$/);
  assert.equal(await refused.end(), 2);
  const { said, text, end } = await serve(t, folder, { node, words: ['--missing-layers', 'warn'] });
  assert.equal(said.at(-1)?.['msg'], 'serving', text);
  assert.ok(
    said.some(({ level, msg }) => level === 40 && /mounts: cannot be had/.test(String(msg))),
    text,
  );
  assert.equal(await end(), 0);
});

test('mounts that are hidden below others, beside and in the share, do not matter', skip, async (t) => {
  const folder = share(t);
  const beside = dirname(folder);
  const node = join(temporaryFolder(t), 'hiding');
  const mount = (path: string): string => `mkdir -p ${path} && mount -t tmpfs tmpfs ${path}`;
  const steps = [
    'mount --make-rprivate /',
    ...[beside, join(beside, 'other'), join(folder, 'inner'), beside].map(mount),
    `mkdir ${folder}`,
    `exec ${process.execPath} "$@"`,
  ];
  const script = `#!/bin/sh\nexec unshare -m sh -ec '${steps.join('\n')}' sh "$@"\n`;
  writeFileSync(node, script, { mode: 0o755 });
  const { said, text, end } = await serve(t, folder, { node });
  assert.equal(said.at(-1)?.['msg'], 'serving', text);
  assert.equal(said.find(({ msg }) => msg === 'confined')?.['mounts'], 'own', text);
  assert.equal(await end(), 0);
});
