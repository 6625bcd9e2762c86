import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { BackendRegistry, createLogger, MountedExport } from '../../../core/plugins/index.js';
import { temporaryFolder } from '../../support/vhost-user.js';

const run = promisify(execFile);
const log = createLogger({ level: 'silent', format: 'json' });

const [major = 0, minor = 0] = release().split('.').map(Number);
const missing = major > 6 || (major === 6 && minor >= 9) ? false : 'Linux 6.9 can do it';

async function mounted(t: TestContext, options: object = {}, layers?: 'over a layer' | 'read-only') {
  let mount: MountedExport | undefined;
  // It comes before the folder's removal, which would wait for this process.
  t.after(() => mount?.close());
  const folder = temporaryFolder(t);
  const [shared, directory] = [join(folder, 'shared'), join(folder, 'mount')];
  mkdirSync(shared);
  mkdirSync(directory);
  const lower = join(folder, 'lower');
  mkdirSync(lower);
  const layer = (sharedDir: string) => ({ type: 'passthrough', sharedDir, ...options });
  const over = { 'over a layer': { upper: layer(shared) }, 'read-only': {} };
  mount = await MountedExport.open({
    directory,
    backend:
      layers === undefined ? layer(shared) : { type: 'overlay', lowers: [layer(lower)], ...over[layers] },
    kernelIo: true,
    registry: new BackendRegistry(),
    log,
  });
  /** Runs a script of the shell in the mount, by another process. */
  const sh = async (script: string): Promise<string> =>
    (await run('/bin/sh', ['-ec', `cd ${directory}; ${script}`])).stdout;
  const python = async (script: string): Promise<string> =>
    (await run('python3', ['-c', `import os, mmap\nos.chdir('${directory}')\n${script}`])).stdout;
  const requests = async (opcode: string): Promise<number> =>
    (await mount!.status()).exports[0]!.requests[opcode] ?? 0;
  return { shared, lower, sh, python, requests };
}

test('the kernel reads and writes files itself, and the host sees the same', { skip: missing }, async (t) => {
  const { shared, sh, python, requests } = await mounted(t);
  writeFileSync(join(shared, 'old'), 'x'.repeat(100_000));
  assert.equal(await sh('cat old | wc -c; dd if=/dev/zero of=new bs=64k count=16 2>/dev/null'), '100000\n');
  assert.equal(statSync(join(shared, 'new')).size, 16 * 65_536);
  // Sizes are told right after a write, through an open file and by name.
  const told = await python(
    [
      "f = os.open('new', os.O_RDWR)",
      "os.pwrite(f, b'end', 2000000)",
      "print(os.fstat(f).st_size, os.stat('new').st_size)",
      'os.ftruncate(f, 5000)',
      "print(os.fstat(f).st_size, os.stat('new').st_size)",
      'm = mmap.mmap(f, 4096)',
      "m[10:14] = b'mmap'",
      'm.flush()',
      'print(os.pread(f, 4, 10).decode())',
      "os.unlink('new')",
      "os.pwrite(f, b'still', 0)",
      'print(os.pread(f, 5, 0).decode())',
    ].join('\n'),
  );
  assert.equal(told, '2000003 2000003\n5000 5000\nmmap\nstill\n');
  assert.equal(await requests('READ'), 0);
  assert.equal(await requests('WRITE'), 0);
  assert.ok((await requests('OPEN')) > 0);
});

test('files that are open in several ways at a time have the same content', { skip: missing }, async (t) => {
  const { shared, python, requests } = await mounted(t);
  writeFileSync(join(shared, 'file'), 'begin');
  const told = await python(
    [
      "a = os.open('file', os.O_WRONLY | os.O_APPEND)",
      "b = os.open('file', os.O_RDWR)",
      "os.write(a, b' one')",
      "os.pwrite(b, b'BEGIN', 0)",
      "print(os.pread(b, 100, 0).decode(), os.stat('file').st_size)",
      'os.close(a)',
      'os.close(b)',
      "b = os.open('file', os.O_RDONLY)",
      "a = os.open('file', os.O_WRONLY | os.O_APPEND)",
      "c = os.open('file', os.O_WRONLY | os.O_APPEND | os.O_SYNC)",
      "for i in range(50): os.write(a if i % 2 else c, b'.')",
      "print(os.pread(b, 100, 0).decode(), os.stat('file').st_size)",
    ].join('\n'),
  );
  assert.equal(told, `BEGIN one 9\nBEGIN one${'.'.repeat(50)} 59\n`);
  assert.equal(readFileSync(join(shared, 'file'), 'utf8'), `BEGIN one${'.'.repeat(50)}`);
  // The first round came by requests, since its first file was opened to append.
  assert.equal(await requests('WRITE'), 2);
});

test(
  'files in the upper of an overlay are with the kernel; what is below is read anew once it is copied up',
  { skip: missing },
  async (t) => {
    const { shared, lower, sh, python, requests } = await mounted(t, {}, 'over a layer');
    writeFileSync(join(lower, 'below'), 'old content');
    assert.equal(await sh('echo content > made; cat made'), 'content\n');
    assert.equal(readFileSync(join(shared, 'made'), 'utf8'), 'content\n');
    assert.deepEqual([await requests('READ'), await requests('WRITE')], [0, 0]);
    const told = await python(
      [
        "reader = os.open('below', os.O_RDONLY)",
        'print(os.pread(reader, 100, 0).decode())',
        "writer = os.open('below', os.O_RDWR)",
        "os.pwrite(writer, b'NEW', 0)",
        'print(os.pread(reader, 100, 0).decode(), os.pread(writer, 100, 0).decode())',
        "other = os.open('below', os.O_RDONLY)",
        'os.close(reader)',
        'print(os.pread(other, 100, 0).decode())',
      ].join('\n'),
    );
    assert.equal(told, 'old content\nNEW content NEW content\nNEW content\n');
    assert.equal(readFileSync(join(lower, 'below'), 'utf8'), 'old content');
    assert.equal(readFileSync(join(shared, 'below'), 'utf8'), 'NEW content');
    const writes = await requests('WRITE');
    assert.equal(writes, 1);
    // All have closed it: from now on the kernel has the copy.
    assert.equal(await sh('echo more >below; cat below'), 'more\n');
    assert.equal(await requests('WRITE'), writes);
    assert.equal(readFileSync(join(shared, 'below'), 'utf8'), 'more\n');
  },
);

test('the files of an overlay without an upper are with the kernel', { skip: missing }, async (t) => {
  const { lower, sh, requests } = await mounted(t, {}, 'read-only');
  writeFileSync(join(lower, 'file'), 'content');
  assert.equal(await sh('cat file'), 'content');
  assert.equal(await requests('READ'), 0);
});

test(
  'a kernel that may not has requests come, as do exports with other rules',
  { skip: missing },
  async (t) => {
    const { sh, requests } = await mounted(t, { cache: 'never' });
    assert.equal(await sh('echo content > file; cat file'), 'content\n');
    assert.equal(await requests('WRITE'), 1);
  },
);
