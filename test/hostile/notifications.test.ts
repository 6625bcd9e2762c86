import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Fd, OwnedFd, UnixConnection, eventfd, signal, watch } from '../../core/system/index.js';
import { DATA, echo, GUEST, Rig, until } from '../core/virtqueue/rig.js';

const child = fileURLToPath(new URL('notify-child.js', import.meta.url));

for (const which of ['call', 'kick'] as const) {
  test(`a front-end that has its ${which} descriptor block, in a race, holds up nothing`, () => {
    const run = spawnSync(process.execPath, [child, which, '20000'], { timeout: 60_000, encoding: 'utf8' });
    assert.equal(run.signal, null, 'it hung');
    assert.equal(run.status, 0, run.stderr);
    const { served, tries } = JSON.parse(run.stdout) as { served: number; tries: number };
    assert.ok(served >= 20_000);
    assert.ok(tries > 1000, `only ${tries} tries`);
  });
}

test('a kick descriptor that is always ready costs little, and requests are served', async () => {
  const { libc } = await import('../../core/system/index.js');
  const make = libc<(count: number, flags: number) => number>('eventfd', 'int', ['uint', 'int']);
  const EFD_SEMAPHORE = 1;
  const rig = new Rig();
  const kick = make(0xffff_fffe, EFD_SEMAPHORE) as Fd;
  rig.queue.setKick(new OwnedFd(kick));
  rig.start(echo);
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 500));
  const { user, system } = process.cpuUsage(before);
  // Without a limit it would take the whole half second.
  assert.ok((user + system) / 1000 < 400, `${(user + system) / 1000} ms of 500`);
  const { driver } = rig;
  driver.begin();
  driver.readable(GUEST + DATA, 3);
  driver.writable(GUEST + DATA + 64, 8);
  driver.submit();
  driver.publish();
  signal(kick);
  await until(() => driver.ready);
  rig.close();
});

test('a notification reaches whoever waits for it', async () => {
  const { drainForeign, signalForeign } = await import('../../core/system/index.js');
  const fd = eventfd();
  let seen = 0;
  const watching = watch(fd.value, () => {
    if (drainForeign(fd.value) === 8) seen += 1;
  });
  for (let round = 1; round <= 20; round++) {
    assert.ok(signalForeign(fd.value) > 0);
    await until(() => seen === round);
  }
  assert.equal(drainForeign(fd.value), -11);
  watching.close();
  fd.close();
  assert.ok(signalForeign(9999 as Fd) < 0);
  // User-Mode Linux has a socket in the eventfd's place. When it is full, a write gives up at once.
  const [one, other] = UnixConnection.pair();
  let sent = 0;
  while (signalForeign(one.fd) === 8) sent += 1;
  assert.ok(sent > 100);
  assert.equal(signalForeign(one.fd), -11);
  one.close();
  other.close();
});
