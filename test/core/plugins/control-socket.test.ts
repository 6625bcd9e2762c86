import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { UsageError } from '../../../core/backend/index.js';
import {
  askDaemon,
  BackendRegistry,
  ControlSocket,
  createLogger,
  Daemon,
} from '../../../core/plugins/index.js';

const log = createLogger({ level: 'silent', format: 'json' });

/** A daemon with one memfs volume named base, and its control socket. */
async function daemon(context: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'control-'));
  const from = join(folder, 'volume.json');
  writeFileSync(from, JSON.stringify({ '/file': 'content' }));
  const registry = new BackendRegistry();
  const backend = { type: 'memfs', name: 'base', from, size: '1m' };
  const exports = [{ socket: join(folder, 'base'), tag: 'base', backend }];
  const served = await Daemon.start({ exports, log, registry });
  const path = join(folder, 'control');
  const control = ControlSocket.listen(path, served, registry, log);
  context.after(async () => {
    await control.close();
    await served.close();
    rmSync(folder, { recursive: true });
  });
  const ask = (command: string, options: Record<string, unknown>): Promise<readonly string[]> =>
    askDaemon(path, { backend: 'memfs', command, options });
  return { folder, path, served, registry, ask };
}

const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof UsageError, String(error));
  assert.match(error.message, message);
  return true;
};

test('a running daemon takes a snapshot, serves forks of it, and discards them', async (context) => {
  const { folder, ask } = await daemon(context);
  assert.deepEqual(await ask('snapshot', { volume: 'base', as: 'clean' }), ['clean: snapshot of base']);
  const sockets = ['one', 'two'].map((name) => join(folder, name));
  await ask('fork', { base: 'clean', as: 'one', socketPath: sockets[0] });
  await ask('fork', { base: 'one', as: 'two', socketPath: sockets[1], tag: 'other', size: '2m' });
  assert.ok(sockets.every((socket) => existsSync(socket)));
  const listed = await ask('list', {});
  assert.match(
    listed.join('\n'),
    /^base: volume .*\none: volume .* fork on .*\ntwo: .*\nclean: snapshot\nmemory: /,
  );
  await ask('discard', { name: 'clean' });
  await ask('discard', { name: 'one' });
  assert.ok(!existsSync(sockets[0]!) && existsSync(sockets[1]!));
  await ask('save', { volume: 'two', file: join(folder, 'two.tar') });
  assert.ok(statSync(join(folder, 'two.tar')).size > 0);
  await ask('discard', { name: 'two' });
  assert.equal((await ask('list', {})).length, 2);
});

test('mistakes are refused in one line, and the daemon goes on', async (context) => {
  const { folder, path, served, registry, ask } = await daemon(context);
  await assert.rejects(
    ask('snapshot', { volume: 'bas', as: 'x' }),
    refused(/bas: no such volume; known are base/),
  );
  await assert.rejects(
    ask('snapshot', { volume: 'base', as: 'base' }),
    refused(/base is the name of another/),
  );
  await assert.rejects(ask('snapshot', { volume: 'base' }), refused(/--as is required/));
  await assert.rejects(
    ask('frok', {}),
    refused(/memfs frok: no such command of a daemon; did you mean fork/),
  );
  await assert.rejects(
    askDaemon(path, { backend: 'overlay', command: 'diff', options: {} }),
    refused(/overlay diff: no such command of a daemon/),
  );
  const socketPath = join(folder, 'base');
  await assert.rejects(ask('fork', { base: 'base', as: 'x', socketPath }), refused(/base/));
  await assert.rejects(ask('discard', { name: 'base' }), refused(/no such fork or snapshot/));
  assert.throws(
    () => ControlSocket.listen(path, served, registry, log),
    refused(/another daemon listens there/),
  );
  assert.equal((await ask('list', {})).length, 2);
});

test('noise at the control socket harms nothing', async (context) => {
  const { path, ask } = await daemon(context);
  for (const noise of ['\n', 'null\n', '{"backend":1}\n', '{}{}\n', '[]\n', `"${'x'.repeat(1000)}"\n`]) {
    const socket = connect(path);
    socket.write(noise);
    const [reply] = (await once(socket, 'data')) as [Buffer];
    assert.match(reply.toString(), /^\{"error":.*"usage":true\}\n$/);
    socket.destroy();
  }
  const socket = connect(path);
  socket.on('error', () => undefined);
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.write('x'.repeat(3 << 20));
  await closed;
  assert.equal((await ask('list', {})).length, 2);
});

test('only its owner may use the control socket, and one left behind is replaced', async (context) => {
  const { folder, path, served, registry } = await daemon(context);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  await assert.rejects(
    askDaemon(join(folder, 'nobody'), { backend: 'memfs', command: 'list', options: {} }),
    refused(/no daemon listens there/),
  );
  const stale = join(folder, 'stale');
  const first = ControlSocket.listen(stale, served, registry, log);
  await first.close();
  writeFileSync(join(folder, 'plain'), '');
  assert.throws(() => ControlSocket.listen(join(folder, 'plain'), served, registry, log), refused(/plain/));
  const second = ControlSocket.listen(stale, served, registry, log);
  await second.close();
});

test('a reply may hold what some take for the end of a line', async (context) => {
  const { ask } = await daemon(context);
  const as = 'a\u2028b\u0085c';
  assert.deepEqual(await ask('snapshot', { volume: 'base', as }), [`${as}: snapshot of base`]);
  assert.ok((await ask('list', {})).includes(`${as}: snapshot`));
  await ask('discard', { name: as });
});
