import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { get } from 'node:http';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { startDaemon } from '../../../support/daemons.js';
import { ROOT } from '../../../support/fuse-client.js';
import { freePort } from '../../../support/free-port.js';
import { connectKept, enginesOf, keeping, killEngine, upgrade } from '../../../support/keepers.js';

const PASSTHROUGH = ['--backend', 'passthrough', '--shared-dir', 'DIRECTORY'];

async function figures(from: { port: number } | { socketPath: string }): Promise<string> {
  return new Promise((resolve, reject) => {
    get({ ...from, host: '127.0.0.1', path: '/metrics', agent: false }, (response) => {
      resolve(text(response));
    }).once('error', reject);
  });
}

/** When the process was started whose figures they are. */
function started(answer: string): string {
  return /^process_start_time_seconds \S+$/m.exec(answer)![0];
}

for (const kind of ['a port', 'a unix socket']) {
  test(`engines of a keeper serve metrics in turn on ${kind}, killed or replaced`, async (t) => {
    const port = await freePort();
    let path = '';
    const running = startDaemon(t, {
      ...keeping(PASSTHROUGH),
      command(directory, socket) {
        path = `${directory}.metrics`;
        const address = kind === 'a port' ? `${port}` : `unix:${path}`;
        return keeping(PASSTHROUGH, '--metrics', address).command(directory, socket);
      },
    });
    const from = kind === 'a port' ? { port } : { socketPath: path };
    const { fuse } = await connectKept(t, running);
    await fuse.init();
    await fuse.mkdir(ROOT, 'directory');
    const first = await figures(from);
    assert.match(first, /^virtiofs_kit_requests_total\{export="test",opcode="MKDIR"\} 1$/m);
    await killEngine(running);
    await fuse.mkdir(ROOT, 'other');
    const second = await figures(from);
    assert.match(second, /^virtiofs_kit_nodes\{export="test"\} 3$/m);
    assert.notEqual(started(second), started(first));
    while (enginesOf(running).length < 2) await new Promise((resolve) => setTimeout(resolve, 10));
    await upgrade(running);
    await fuse.getattr(ROOT);
    assert.notEqual(started(await figures(from)), started(second));
    assert.equal(await running.stop(), 0);
    assert.equal(existsSync(path), false);
  });
}
