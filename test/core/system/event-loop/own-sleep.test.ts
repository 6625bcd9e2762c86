import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { setImmediate as turn, setTimeout as pass } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import {
  type Fd,
  drain,
  eventfd,
  hasOwnSleep,
  signal,
  watchClosely,
  watchSignals,
} from '../../../../core/system/index.js';
import { repetitions } from '../../../support/random.js';

const PROGRAM = fileURLToPath(new URL('./sleeper.js', import.meta.url));

/** What a program does beside serving: each must go on, whatever the thread's own sleep does. */
const others: Record<string, () => Promise<unknown>> = {
  'a timer': () => pass(5),
  'a timer without reference': () => pass(5, undefined, { ref: false }),
  'an immediate': () => turn(),
  // Node runs it at the next turn of the loop, but wakes the loop for referenced ones only.
  'an immediate without reference': () => Promise.all([turn(undefined, { ref: false }), pass(5)]),
  'a promise': () => Promise.resolve().then(() => Promise.resolve()),
  'work of the pool of threads': () => readFile('/proc/self/stat'),
  'a child process': () => promisify(execFile)('true'),
  'an HTTP request over a new connection': requestOverHttp,
  'a message of another thread': askThread,
  'a signal': receiveSignal,
};

async function requestOverHttp(): Promise<void> {
  const server = createServer((_, response) => response.end('here'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  assert.equal(await response.text(), 'here');
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}

async function askThread(): Promise<void> {
  const worker = new Worker(`require('worker_threads').parentPort.postMessage('here')`, { eval: true });
  // The messages and the end of a thread that has ended come together.
  const ended = new Promise((resolve) => worker.once('exit', resolve));
  assert.equal(await new Promise((resolve) => worker.once('message', resolve)), 'here');
  await ended;
}

async function receiveSignal(): Promise<void> {
  const received = new Promise((resolve) => process.once('SIGUSR2', resolve));
  process.kill(process.pid, 'SIGUSR2');
  await received;
}

test('Node shows its event loop, so that threads have a sleep of their own', () => {
  assert.ok(hasOwnSleep());
});

for (const [name, happens] of Object.entries(others)) {
  test(`${name} goes on while nothing is signalled`, async () => {
    using fd = eventfd();
    const watched = watchSignals(fd.value, () => {});
    for (let i = 0; i < 3; i++) await happens();
    watched.close();
  });

  test(`${name} goes on while signals never cease`, async () => {
    using fd = eventfd();
    let close = (): void => {};
    let calls = 0;
    const served = new Promise<void>((resolve) => {
      const watched = watchSignals(fd.value, () => {
        calls += 1;
        if (calls === 3) resolve();
        signal(fd.value);
      });
      close = () => watched.close();
    });
    signal(fd.value);
    for (let i = 0; i < 3; i++) await happens();
    await served;
    close();
  });
}

test('signals before a watch and during it are told, and none while it is paused or closed', async () => {
  using fd = eventfd();
  let calls = 0;
  const watched = watchSignals(fd.value, () => {
    calls += 1;
  });
  const callsAfter = async (act: () => void): Promise<number> => {
    calls = 0;
    act();
    for (let i = 0; i < 3; i++) await turn();
    return calls;
  };
  assert.equal(await callsAfter(() => signal(fd.value)), 1);
  assert.equal(await callsAfter(() => {}), 0);
  assert.equal(await callsAfter(() => (signal(fd.value), signal(fd.value))), 1);
  watched.pause();
  assert.equal(await callsAfter(() => signal(fd.value)), 0);
  assert.equal(await callsAfter(() => watched.resume()), 1);
  watched.close();
  watched.close();
  assert.equal(await callsAfter(() => (watched.resume(), signal(fd.value))), 0);
  assert.equal(drain(fd.value), 8);
});

test('a descriptor that cannot be polled, or is polled already, is refused', () => {
  const file = openSync('/etc/passwd', 'r') as Fd;
  assert.throws(() => watchClosely(file, () => {}), { message: `polling descriptor ${file}: EPERM` });
  closeSync(file);
  assert.throws(() => watchClosely(-1 as Fd, () => {}), { code: 'EBADF' });
  using fd = eventfd();
  const watched = watchClosely(fd.value, () => {});
  assert.throws(() => watchClosely(fd.value, () => {}), { code: 'EEXIST' });
  watched.close();
  watchClosely(fd.value, () => {}).close();
});

test('what a callback makes due runs before the next callback', async () => {
  using fd = eventfd();
  const order: string[] = [];
  await new Promise<void>((resolve) => {
    const watched = watchClosely(fd.value, () => {
      order.push('callback');
      void Promise.resolve().then(() => order.push('promise'));
      process.nextTick(() => order.push('tick'));
      if (order.length > 3) resolve(watched.close());
    });
    signal(fd.value);
  });
  assert.deepEqual(order.slice(0, 4), ['callback', 'tick', 'promise', 'callback']);
});

/** Runs {@link PROGRAM} in a process of its own. @returns its exit code and standard error. */
async function run(mode: string): Promise<{ code: number | null; stderr: string }> {
  const child = spawn(process.execPath, [PROGRAM, mode], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { code, stderr };
}

test('a process ends when its last watch is closed', async () => {
  assert.deepEqual(await run('close'), { code: 0, stderr: '' });
});

test('a process exits while a thread of it sleeps', async () => {
  for (let i = 0; i < repetitions(5); i++)
    assert.deepEqual(await run('exit-beside-thread'), { code: 7, stderr: '' });
});

test('a thread ends when its last watch is closed', async () => {
  assert.deepEqual(await run('end-thread'), { code: 0, stderr: '' });
});

test('what a callback, a tick or a promise throws reaches uncaughtException, and serving goes on', async () => {
  assert.deepEqual(await run('throw'), { code: 0, stderr: 'callback tick promise ' });
});

test('a process that watches and has nothing to do is never woken', async () => {
  const child = spawn(process.execPath, [PROGRAM, 'idle'], { stdio: ['ignore', 'pipe', 'inherit'] });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const times = (): string =>
    readFileSync(`/proc/${child.pid}/task/${child.pid}/schedstat`, 'utf8').trim().split(' ')[2]!;
  // The first seconds may have compilations and collections of the engine's own.
  let before = '';
  for (let i = 0; i < 20 && before !== times(); i++) {
    before = times();
    await pass(700);
  }
  assert.equal(times(), before);
  child.kill();
});
