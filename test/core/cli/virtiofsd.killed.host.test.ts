import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { FrontEnd } from '../../support/front-end.js';
import { FuseClient, ROOT } from '../../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';

const program = fileURLToPath(new URL('../../../core/cli/virtiofsd/main.js', import.meta.url));

/** Starts the daemon as Kata Containers' runtime in Rust does, and waits for its line. */
async function start(t: TestContext, socket: string, shared: string): Promise<ChildProcess> {
  const words = ['--socket-path', socket, '--shared-dir', shared, '--cache', 'auto', '--xattr'];
  const daemon = spawn(process.execPath, [program, ...words], { stdio: ['ignore', 'ignore', 'pipe'] });
  t.after(() => daemon.kill('SIGKILL'));
  let told = '';
  while (!told.includes('Waiting for vhost-user socket connection')) {
    const [text] = (await once(daemon.stderr!, 'data')) as [Buffer];
    told += String(text);
  }
  return daemon;
}

/** Processes in whose command line there is a word. */
function processesOf(word: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(word);
    } catch {
      // It has just ended.
      return false;
    }
  });
}

/** How a file is named in /proc/locks: `MAJOR:MINOR:INODE`, the first two in hexadecimal digits. */
function lockName(path: string): string {
  const { dev, ino } = statSync(path);
  const digits = (part: number): string => part.toString(16).padStart(2, '0');
  // The form of glibc's `makedev`, of device numbers below 2^32.
  const [major, minor] = [(dev >>> 8) & 0xfff, (dev & 0xff) | ((dev >>> 12) & 0xfff00)];
  return ` ${digits(major)}:${digits(minor)}:${ino} `;
}

/** Lines of a file of /proc that have a word. */
function linesWith(file: string, word: string): string[] {
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line.includes(word));
}

test('of a daemon that was killed under a guest, as Kata ends it, nothing stays but the socket, which the next one takes', async (t) => {
  const [folder, shared] = [temporaryFolder(t), temporaryFolder(t)];
  const socket = join(folder, 'socket');
  for (let round = 0; round < 3; round++) {
    const daemon = await start(t, socket, shared);
    assert.notDeepEqual(processesOf(socket), []);
    const frontEnd = await FrontEnd.connect(socket);
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    await fuse.mkdir(ROOT, `${round}`);
    const { entry, open } = await fuse.create(ROOT, `file${round}`);
    await fuse.write(entry.nodeid, open.fh, 0, Buffer.from('content'));
    daemon.kill('SIGKILL');
    assert.deepEqual(await once(daemon, 'exit'), [null, 'SIGKILL']);
    await frontEnd.close();
    assert.deepEqual(readdirSync(folder), ['socket']);
    assert.deepEqual(processesOf(socket), []);
    assert.deepEqual(linesWith('/proc/self/mountinfo', shared), []);
    assert.deepEqual(linesWith('/proc/locks', lockName(shared)), []);
    assert.deepEqual(linesWith('/proc/locks', lockName(join(shared, `file${round}`))), []);
    assert.equal(readFileSync(join(shared, `file${round}`), 'utf8'), 'content');
  }
  const left = ['0', '1', '2', 'file0', 'file1', 'file2'];
  assert.deepEqual(readdirSync(shared).toSorted(), left);
});
