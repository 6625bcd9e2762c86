import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { program } from '../../../support/program.js';
import { temporaryFolder } from '../../../support/vhost-user.js';

/**
 * Starts the program with a bucket on a server that accepts and never answers, and sends it SIGTERM
 * when it has connected there.
 * @returns exit code and signal.
 */
async function endedWhileStarting(t: TestContext, words: readonly string[]): Promise<readonly unknown[]> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  const environment = { AWS_ACCESS_KEY_ID: 'a', AWS_SECRET_ACCESS_KEY: 'b' };
  const bucket = ['--backend', 's3', '--bucket', 'bucket', '--endpoint', `http://127.0.0.1:${port}`];
  const cache = ['--cache-dir', temporaryFolder(t), '--operation-timeout', '3600'];
  const child = spawn(process.execPath, [program, ...words, ...bucket, ...cache], {
    stdio: 'ignore',
    env: { ...process.env, ...environment },
  });
  t.after(() => child.kill('SIGKILL'));
  await Promise.race([once(server, 'connection'), once(child, 'exit')]);
  child.kill('SIGTERM');
  return child.exitCode === null ? once(child, 'exit') : [child.exitCode, child.signalCode];
}

/** Where nothing ends it, the server's silence does after an hour. */
const options = { timeout: 120_000 };

test('a daemon whose backend does not come up ends when it is told to', options, async (t) => {
  const socket = ['--socket-path', join(temporaryFolder(t), 'socket')];
  assert.deepEqual(await endedWhileStarting(t, ['serve', ...socket]), [143, null]);
});

test('a mount whose backend does not come up ends when it is told to', options, async (t) => {
  assert.deepEqual(await endedWhileStarting(t, ['mount', temporaryFolder(t)]), [143, null]);
});

test('a keeper whose engine does not come up ends when it is told to', options, async (t) => {
  const socket = ['--socket-path', join(temporaryFolder(t), 'socket')];
  assert.deepEqual(await endedWhileStarting(t, ['serve', '--keep', ...socket]), [0, null]);
});
