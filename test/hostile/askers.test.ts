import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { askSocket, CommandSocket } from '../../core/control/index.js';
import { MetricsServer } from '../../core/monitoring/index.js';
import { BackendRegistry, createLogger, Daemon } from '../../core/plugins/index.js';
import { temporaryFolder, until } from '../support/vhost-user.js';

/* Those who ask a daemon for figures, or command it, are other processes of the host. */

const log = createLogger({ level: 'silent', format: 'json' });
const request = { backend: 'any', command: 'any', options: {} };

/** Whether the sizes of what two sides have in hand have come to rest. */
async function atRest(count: () => number): Promise<number> {
  let before = -1;
  await until(() => {
    const now = count();
    const isSame = now > 0 && now === before;
    before = now;
    return isSame;
  }, 'it comes to rest');
  return count();
}

test('one who commands without end and takes no answer has few of them kept', async (t) => {
  const path = join(temporaryFolder(t), 'control');
  let answers = 0;
  const answer = ['x'.repeat(2 ** 20)];
  const socket = CommandSocket.listen(
    path,
    () => {
      answers += 1;
      return Promise.resolve(answer);
    },
    log,
  );
  t.after(() => socket!.close());
  const greedy = connect(path);
  await once(greedy, 'connect');
  greedy.pause();
  greedy.write(`${JSON.stringify(request)}\n`.repeat(100));
  assert.ok((await atRest(() => answers)) < 10);
  // Others are answered, and so is this one as soon as it reads.
  assert.deepEqual(await askSocket(path, request), answer);
  let bytes = 0;
  greedy.on('data', (data) => (bytes += data.length)).resume();
  await until(() => bytes > 100 * 2 ** 20, 'all answers have come');
  greedy.destroy();
});

test('those who command and go away before the answer harm nobody', async (t) => {
  const path = join(temporaryFolder(t), 'control');
  const answer = ['x'.repeat(2 ** 18)];
  const socket = CommandSocket.listen(
    path,
    async () => {
      await new Promise((resolve) => setTimeout(resolve, 5));
      return answer;
    },
    log,
  );
  t.after(() => socket!.close());
  for (let i = 0; i < 50; i++) {
    const gone = connect(path);
    await once(gone, 'connect');
    gone.write(`${JSON.stringify(request)}\n`.repeat(1 + (i % 3)));
    if (i % 2 === 0) gone.destroy();
    else gone.end(() => gone.destroy());
  }
  assert.deepEqual(await askSocket(path, request), answer);
});

test('however many ask for figures at once, they are collected for all together', async (t) => {
  const folder = temporaryFolder(t);
  const path = join(folder, 'metrics');
  const exports = [{ tag: 'served', socket: join(folder, 'served'), backend: { type: 'memfs' } }];
  const daemon = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  let collections = 0;
  const figures = (): ReturnType<Daemon['figures']> => {
    collections += 1;
    return daemon.figures();
  };
  const server = await MetricsServer.start(path, figures, log);
  t.after(async () => {
    await server.close();
    await daemon.close();
  });
  const asking: Socket[] = [];
  let answers = 0;
  for (let i = 0; i < 8; i++) {
    const socket = connect(path);
    asking.push(socket);
    await once(socket, 'connect');
    socket.on('data', (data) => (answers += data.toString('latin1').split('HTTP/1.1 200').length - 1));
    socket.write('GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(200));
  }
  await until(() => answers === 1600, 'all are answered');
  assert.ok(collections <= 16, `${collections} collections`);
  for (const socket of asking) socket.destroy();
});
