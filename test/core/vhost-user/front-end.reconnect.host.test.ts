import assert from 'node:assert/strict';
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { HOLD } from '../../support/echo-session.js';
import { temporaryFolder } from '../../support/vhost-user.js';
import { FrontEnd } from '../../support/front-end.js';

const program = fileURLToPath(new URL('./echo-child.js', import.meta.url));

async function start(t: TestContext, path: string): Promise<ChildProcess> {
  const child = fork(program, [path], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  t.after(() => child.kill('SIGKILL'));
  const [message] = (await once(child, 'message')) as [string];
  assert.equal(message, 'ready');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

test('requests in flight when the daemon is killed are answered by the next one', async (t) => {
  for (const options of [{ queueSize: 16 }, { queueSize: 16, eventIdx: false, indirect: 4 }]) {
    const path = join(temporaryFolder(t), 'socket');
    let child = await start(t, path);
    const frontEnd = await FrontEnd.connect(path, { requestQueues: 2, inflight: true, ...options });
    t.after(() => frontEnd.close());
    const request = async (i: number) => {
      const bytes = Uint8Array.of(i % HOLD, i >> 8);
      assert.deepEqual(await frontEnd.request(1 + (i % 2), [bytes], [2]), bytes);
    };
    // This daemon never answers the first request. Later ones are answered.
    const held = frontEnd.request(1, [Uint8Array.of(HOLD, 7)], [2]);
    for (let i = 0; i < 100; i++) await request(i);
    for (let round = 0; round < 5; round++) {
      const many = Array.from({ length: 300 }, (_, i) => request(i));
      await many[round * 10];
      await kill(child);
      await frontEnd.ended;
      child = await start(t, path);
      await frontEnd.reconnect(path);
      await Promise.all(many);
    }
    // When the queue is stopped, the device answers what it holds.
    await frontEnd.channel.call('GET_VRING_BASE', new Uint8Array(Uint32Array.of(1, 0).buffer));
    assert.deepEqual(await held, Uint8Array.of(HOLD, 7));
    await kill(child);
  }
});
