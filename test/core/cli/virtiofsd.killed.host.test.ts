import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
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

test('a daemon that was killed under a guest, as Kata ends it, is followed on the same socket', async (t) => {
  const [folder, shared] = [temporaryFolder(t), temporaryFolder(t)];
  const socket = join(folder, 'socket');
  for (let round = 0; round < 3; round++) {
    const daemon = await start(t, socket, shared);
    const frontEnd = await FrontEnd.connect(socket);
    const fuse = new FuseClient(fuseTransport(frontEnd));
    await fuse.init();
    await fuse.mkdir(ROOT, `${round}`);
    daemon.kill('SIGKILL');
    assert.deepEqual(await once(daemon, 'exit'), [null, 'SIGKILL']);
    await frontEnd.close();
    assert.ok(existsSync(socket));
  }
  assert.deepEqual(readdirSync(shared).toSorted(), ['0', '1', '2']);
});
