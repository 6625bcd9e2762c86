import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { PassThrough, Writable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { DAEMON, decodeName, FileType, nameBytes } from '../../../core/backend/index.js';
import { Differences, type SandboxDifference } from '../../../core/sandbox/differences.js';
import { writePatch } from '../../../core/sandbox/patch.js';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { HostFiles, overlay, type OverlayNode } from '../../../backends/overlay/index.js';
import { defaults, host, onHost, share } from '../../backends/overlay/support.js';

const ODD = decodeName(Buffer.from('odd \xff"\\\n', 'latin1'));

/** What a sandbox begins with, and what it makes of it. */
async function box(fill: (lower: MemfsVolume) => void) {
  const lower = new MemfsVolume();
  fill(lower);
  const snapshot = lower.snapshot();
  let opened = 0;
  const base = {
    hold: () => () => {},
    open: () => {
      opened += 1;
      const close = (): void => void (opened -= 1);
      return Promise.resolve({ lowers: [snapshot.fork().backend], close });
    },
  };
  const tree = overlay({
    ...defaults,
    metacopy: true,
    upper: new MemfsVolume().backend,
    lowers: [snapshot.fork().backend],
  });
  const root = await tree.mount(host);
  const files = new HostFiles(tree);
  const differences = new Differences(base, tree, files, host.log);
  const nodeAt = async (path: string): Promise<OverlayNode> => {
    let node = root;
    for (const name of path.split('/').slice(1)) node = (await tree.lookup(node, name, DAEMON))!.node;
    return node;
  };
  return { tree, files, differences, nodeAt, openBases: () => opened };
}

const OLD = {
  '/etc/text': 'one\ntwo\nthree\n',
  '/etc/mode': 'kept\n',
  '/etc/owner': 'kept\n',
  '/etc/opened': 'kept\n',
  '/etc/binary': '\0\x01',
  '/etc/gone': 'gone\n',
  '/etc/turned': 'a file\n',
  '/dir/left/deep': 'deep\n',
  '/dir/left/other': 'other\n',
  '/again/same': 'same\n',
  '/again/lost': 'lost\n',
  '/again/sub/lost': 'lost\n',
  '/flat/file': 'below\n',
  [`/names/${ODD}`]: 'x\n',
};

async function changedBox() {
  const made = await box((lower) => {
    for (const [path, content] of Object.entries(OLD)) {
      lower.mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
      lower.writeFileSync(path, content, { mode: 0o644 });
    }
    lower.symlinkSync('text', '/etc/link');
  });
  const { files, tree, nodeAt } = made;
  await files.writeFile('/etc/text', 'one\nTWO\nthree\nno end');
  await tree.setattr!(await nodeAt('/etc/mode'), { mode: 0o755 }, undefined, DAEMON);
  await tree.setattr!(await nodeAt('/etc/owner'), { uid: 5, gid: 6 }, undefined, DAEMON);
  await files.writeFile('/etc/opened', 'kept\n');
  await files.writeFile('/etc/binary', Buffer.from([0, 2, 255]));
  await files.rm('/etc/gone');
  await files.rm('/etc/turned');
  await files.mkdir('/etc/turned');
  await files.rm('/etc/link');
  await tree.symlink!(await nodeAt('/etc'), 'link', 'mode', DAEMON);
  await files.rm('/dir/left');
  await files.rm('/again');
  await files.mkdir('/again/sub');
  await files.writeFile('/again/same', 'same\n');
  await files.writeFile('/again/new', 'new\n');
  await files.rm('/flat');
  await files.writeFile('/flat', 'a file now\n');
  await files.writeFile('/added', '', { mode: 0o700 });
  await files.writeFile(`/names/${ODD}`, 'y\n');
  return made;
}

async function told(change: SandboxDifference): Promise<string> {
  const versions = await Promise.all([change.before(), change.after()]);
  const [before, after] = await Promise.all(
    versions.map(async (version) => {
      if (version === undefined) return '-';
      if (version.type === FileType.DIRECTORY) return 'directory';
      return version.target ?? JSON.stringify((await version.bytes()).toString('latin1'));
    }),
  );
  const aspects = (await change.aspects()).filter((aspect) => aspect !== 'mtime');
  return `${change.kind} ${change.path}: ${before} ${after} ${aspects.join(' ')}`.trimEnd();
}

test('each change has what was there and what is there, and says what differs', async () => {
  const { differences } = await changedBox();
  const lines: string[] = [];
  for (const change of await differences.list('/')) {
    lines.push(await told(change));
    for await (const below of change.removedBelow()) lines.push(`  ${await told(below)}`);
  }
  assert.deepEqual(lines, [
    'added /added: - ""',
    'changed /again: directory directory',
    'removed /again/lost: "lost\\n" -',
    'added /again/new: - "new\\n"',
    'changed /again/same: "same\\n" "same\\n"',
    'changed /again/sub: directory directory',
    'removed /again/sub/lost: "lost\\n" -',
    'removed /dir/left: directory -',
    '  removed /dir/left/deep: "deep\\n" -',
    '  removed /dir/left/other: "other\\n" -',
    'changed /etc/binary: "\\u0000\\u0001" "\\u0000\\u0002ÿ" content',
    'removed /etc/gone: "gone\\n" -',
    'changed /etc/link: text mode target',
    'changed /etc/mode: "kept\\n" "kept\\n" mode',
    'changed /etc/opened: "kept\\n" "kept\\n"',
    'changed /etc/owner: "kept\\n" "kept\\n" owner',
    'changed /etc/text: "one\\ntwo\\nthree\\n" "one\\nTWO\\nthree\\nno end" content',
    'changed /etc/turned: "a file\\n" directory type',
    'changed /flat: directory "a file now\\n" type',
    '  removed /flat/file: "below\\n" -',
    `changed /names/${ODD}: "x\\n" "y\\n" content`,
  ]);
  const within = (await differences.list('/again/sub')).map(({ path }) => path);
  assert.deepEqual(within, ['/again/sub', '/again/sub/lost']);
});

/** The files of a directory of this host. */
function treeOf(folder: string, below = ''): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of readdirSync(Buffer.from(nameBytes(folder + below)), 'buffer')) {
    const at = `${below}/${decodeName(name)}`;
    const path = Buffer.from(nameBytes(folder + at));
    const stats = lstatSync(path);
    if (at === '/.git') continue;
    if (stats.isDirectory()) Object.assign(found, treeOf(folder, at));
    else if (stats.isSymbolicLink()) found[at] = `-> ${readlinkSync(path)}`;
    else found[at] = `${(stats.mode & 0o100).toString(8)} ${readFileSync(path, 'latin1')}`;
  }
  return found;
}

function hasProgram(program: string): boolean {
  return spawnSync(program, ['--version']).status === 0;
}

test('changes are written as a patch that git and patch apply', async () => {
  const { differences, files } = await changedBox();
  // Of what is no text, patches say only that it differs.
  await files.writeFile('/etc/binary', OLD['/etc/binary']);
  const changes = await differences.list('/');
  const patch = await patchOf(changes);
  assert.match(patch.toString(), /^# etc\/owner: owner 0:0 -> 5:6$/m);
  assert.match(patch.toString(), /^# dir\/left: directory, mode 755, owner 0:0 -> nothing$/m);
  assert.ok(!patch.includes('etc/opened'));
  if (hasProgram('git')) assert.deepEqual(applied(['git', 'apply', '-'], patch), AFTER);
  if (!hasProgram('patch')) return;
  // It makes no file in the place of a directory.
  const others = await patchOf(changes.filter(({ path }) => path !== '/flat'));
  const expected: Record<string, string> = { ...AFTER, '/flat/file': '0 below\n' };
  delete expected['/flat'];
  const words = ['patch', '-p1', '-s', '--no-backup-if-mismatch'];
  assert.deepEqual(applied(words, others), expected);
});

async function patchOf(changes: readonly SandboxDifference[]): Promise<Buffer> {
  const output = new PassThrough();
  const written = buffer(output);
  await writePatch(changes, output);
  output.end();
  return written;
}

/** Applies a patch to what a sandbox began with. @returns what comes of it. */
function applied([program, ...words]: readonly string[], patch: Buffer): Record<string, string> {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-patch-'));
  try {
    for (const [path, content] of Object.entries(OLD)) {
      mkdirSync(join(folder, dirname(path)), { recursive: true });
      writeFileSync(Buffer.from(nameBytes(folder + path)), content);
    }
    symlinkSync('text', join(folder, 'etc/link'));
    const env = { ...process.env, GIT_CEILING_DIRECTORIES: folder };
    execFileSync(program!, words, { cwd: folder, input: patch, env });
    return treeOf(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const AFTER = {
  '/added': '100 ',
  '/again/new': '0 new\n',
  '/again/same': '0 same\n',
  '/etc/binary': '0 \0\x01',
  '/etc/link': '-> mode',
  '/etc/mode': '100 kept\n',
  '/etc/opened': '0 kept\n',
  '/etc/owner': '0 kept\n',
  '/etc/text': '0 one\nTWO\nthree\nno end',
  '/flat': '0 a file now\n',
  [`/names/${ODD}`]: '0 y\n',
};

test('what is no text, or long, is told of and not loaded, and a patch that nobody reads ends', async () => {
  const size = 17 << 20;
  const { differences, files, tree } = await box((lower) => {
    for (const name of ['/same', '/other', '/grown']) {
      lower.writeFileSync(name, 'x');
      lower.truncateSync(name, size);
    }
    lower.writeFileSync('/binary', '\0');
    lower.writeFileSync('/lines', 'line\n'.repeat(200_000));
  });
  const content = Buffer.alloc(size);
  content[0] = 'x'.charCodeAt(0);
  await files.writeFile('/same', content);
  content[size - 1] = 1;
  await files.writeFile('/other', content);
  await files.writeFile('/grown', Buffer.alloc(size + 1));
  await files.writeFile('/binary', '\0\0');
  const changes = await differences.list('/');
  assert.equal(
    (await patchOf(changes)).toString(),
    `diff --git a/binary b/binary
Binary files a/binary and b/binary differ
# grown: ${size} -> ${size + 1} bytes, too long to be compared by lines
# other: ${size} -> ${size} bytes, too long to be compared by lines
`,
  );
  const grown = changes.find(({ path }) => path === '/grown')!;
  const after = (await grown.after())!;
  await assert.rejects(after.bytes(1000), { code: 'EFBIG' });
  // One stream is given up in its midst, another one is cut off by the end.
  for await (const part of after.stream()) {
    assert.equal((part as Buffer).length, 1 << 20);
    break;
  }
  await files.writeFile('/lines', 'other\n'.repeat(200_000));
  const gone = new Writable({
    write: (_bytes, _encoding, done) => done(new Error('the reader has gone')),
  });
  gone.on('error', () => {});
  await assert.rejects(writePatch(await differences.list('/lines'), gone), /the reader has gone/);
  const cut = after.stream();
  await new Promise((read) => {
    cut.once('readable', read);
  });
  await Promise.all([files.close(), differences.close()]);
  await assert.rejects(buffer(cut), { code: 'ECANCELED' });
  await assert.rejects(after.bytes(), { code: 'ECANCELED' });
  await assert.rejects(grown.before(), /the sandbox has ended/);
  await tree.unmount?.();
});

test('attributes of several files are had at once, of a layer that has one answer for all', async () => {
  await onHost(async (directory) => {
    for (const mode of [0o600, 0o640, 0o644]) {
      const path = join(directory, 'lower', mode.toString(8));
      writeFileSync(path, '');
      chmodSync(path, mode);
    }
    const lower = share(join(directory, 'lower'));
    const tree = overlay({ ...defaults, upper: new MemfsVolume().backend, lowers: [lower] });
    await tree.mount(host);
    const files = new HostFiles(tree);
    const all = await Promise.all(['/600', '/640', '/644'].map((path) => files.stat(path)));
    assert.deepEqual(
      all.map(({ mode }) => mode & 0o777),
      [0o600, 0o640, 0o644],
    );
    await tree.unmount?.();
  });
});

test('what is no file is not read', async () => {
  const { files, tree, nodeAt } = await box((lower) => lower.mkdirSync('/dev'));
  await tree.mknod!(await nodeAt('/dev'), 'fifo', FileType.FIFO | 0o644, 0, DAEMON);
  await assert.rejects(files.readFile('/dev/fifo'), { code: 'EINVAL', path: '/dev/fifo' });
  await assert.rejects(files.readFile('/dev'), { code: 'EISDIR' });
  await assert.rejects(files.readlink('/dev'), { code: 'EINVAL' });
});
