import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Daemon, launch, ours, startDaemon } from '../../../support/daemons.js';
import { FrontEnd } from '../../../support/front-end.js';
import { FuseClient } from '../../../support/fuse-client.js';
import { enginesOf, keptPassthrough, upgrade } from '../../../support/keepers.js';
import { program } from '../../../support/program.js';
import { fuseTransport, temporaryFolder } from '../../../support/vhost-user.js';

/** Binds a datagram socket as systemd does, and prints a line for each message. */
const RECEIVER = `
use Socket; $| = 1;
socket(S, AF_UNIX, SOCK_DGRAM, 0) or die $!;
bind(S, pack('S', AF_UNIX) . ($ARGV[0] =~ s/^@/\\0/r) . ($ARGV[0] =~ /^@/ ? '' : "\\0")) or die $!;
print "bound\\n";
while (defined recv(S, $message, 4096, 0)) { print join('|', split /\\n/, $message), "\\n" }
`;

/** What a service manager is told. */
class Manager {
  readonly messages: string[] = [];

  static async listen(t: TestContext, path: string): Promise<Manager> {
    const manager = new Manager();
    const child = spawn('perl', ['-e', RECEIVER, path], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => child.kill());
    createInterface({ input: child.stdout }).on('line', (line) => manager.messages.push(line));
    await manager.until('bound');
    return manager;
  }

  /** Waits for a message that begins so. */
  async until(start: string): Promise<string> {
    for (;;) {
      const found = this.messages.find((message) => message.startsWith(start));
      if (found !== undefined) return found;
      await sleep(10);
    }
  }
}

/** The daemon as a service manager starts it: with variables of the environment. */
function asService(daemon: Daemon, ...variables: readonly string[]): Daemon {
  return {
    ...daemon,
    command: (directory, socket) => ['/usr/bin/env', ...variables, ...daemon.command(directory, socket)],
  };
}

describe('a service manager', () => {
  for (const [what, at] of [
    ['path', ''],
    ['abstract address', '@'],
  ] as const)
    it(`is told at a ${what} that a confined daemon serves, is alive, and ends`, async (t) => {
      const path = `${at}${join(temporaryFolder(t), 'notify')}`;
      const manager = await Manager.listen(t, path);
      const daemon = startDaemon(t, asService(ours, `NOTIFY_SOCKET=${path}`, 'WATCHDOG_USEC=100000'));
      assert.equal(await manager.until('READY'), 'READY=1|STATUS=serving one export');
      assert.ok(existsSync(daemon.socket));
      await manager.until('WATCHDOG=1');
      assert.equal(await daemon.stop(), 0);
      await manager.until('STOPPING=1');
      assert.deepEqual(
        [...new Set(manager.messages)],
        ['bound', 'READY=1|STATUS=serving one export', 'WATCHDOG=1', 'STOPPING=1'],
      );
    });

  it('is told by a keeper, not by engines, that these serve and are replaced', async (t) => {
    const path = join(temporaryFolder(t), 'notify');
    const manager = await Manager.listen(t, path);
    const daemon = startDaemon(t, asService(keptPassthrough, `NOTIFY_SOCKET=${path}`));
    await manager.until('READY');
    while (enginesOf(daemon).length < 2) await sleep(10);
    await upgrade(daemon);
    assert.match(await manager.until('RELOADING'), /^RELOADING=1\|MONOTONIC_USEC=\d+$/);
    assert.equal(await daemon.stop(), 0);
    await manager.until('STOPPING=1');
    const ready = 'READY=1|STATUS=serving one export';
    const told = manager.messages.map((message) => message.replace(/\|MONOTONIC.*/, ''));
    assert.deepEqual(told, ['bound', ready, 'RELOADING=1', ready, 'STOPPING=1']);
  });

  it('that is not there does not keep a daemon from serving', async (t) => {
    const daemon = startDaemon(t, asService(ours, 'NOTIFY_SOCKET=/nobody/is/here'));
    while (!existsSync(daemon.socket)) await sleep(10);
    assert.equal(await daemon.stop(), 0);
  });

  for (const unit of ['virtiofs-kit.service', 'virtiofs-kit@.service'])
    it(
      `takes the unit ${unit}`,
      { skip: existsSync('/usr/bin/systemd-analyze') ? false : 'systemd is not installed' },
      (t) => {
        const file = join(temporaryFolder(t), unit.replace('@', '@data'));
        const text = readFileSync(
          new URL(`../../../../../examples/systemd/${unit}`, import.meta.url),
          'utf8',
        );
        // The program may be installed elsewhere on this machine.
        writeFileSync(file, text.replace('=/usr/local/bin/virtiofs-kit ', `=${process.execPath} `));
        const { status, stderr } = spawnSync('/usr/bin/systemd-analyze', ['verify', file], {
          encoding: 'utf8',
        });
        assert.equal(
          stderr
            .split('\n')
            .filter((line) => line.includes('virtiofs-kit'))
            .join('\n'),
          '',
        );
        assert.equal(status, 0);
      },
    );

  const activate = '/usr/bin/systemd-socket-activate';
  it(
    'passes a socket by its name',
    { skip: existsSync(activate) ? false : 'systemd is not installed' },
    async (t) => {
      const folder = temporaryFolder(t);
      const directory = join(folder, 'shared');
      mkdirSync(directory);
      const words = (name: string): readonly string[] =>
        [process.execPath, program, 'serve', '--fd-name', name, '--shared-dir', directory].concat(
          '--backend passthrough --log-level warn'.split(' '),
        );
      const daemon = launch(
        { command: (_, socket) => [activate, '-l', socket, '--fdname', 'data', ...words('data')] },
        directory,
        join(folder, 'socket'),
      );
      t.after(() => daemon.stop('SIGKILL'));
      while (!existsSync(daemon.socket)) await sleep(10);
      const frontEnd = await FrontEnd.connect(daemon.socket);
      const fuse = new FuseClient(fuseTransport(frontEnd));
      await fuse.init();
      await fuse.mkdir(1n, 'made');
      assert.ok(existsSync(join(directory, 'made')));
      frontEnd.close();
      assert.equal(await daemon.stop(), 0);

      const [command, ...rest] = words('dato');
      const wrong = spawnSync(command!, rest, { encoding: 'utf8' });
      assert.equal(wrong.stderr, 'virtiofs-kit: no socket named dato was passed to this process\n');
      assert.equal(wrong.status, 2);
    },
  );
});
