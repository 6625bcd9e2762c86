import { strict as assert } from 'node:assert';
import { execFile } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Guest } from '../../core/guest/index.js';
import { findUml } from '../../core/guest/uml.js';
import { BackendRegistry, createLogger, Daemon } from '../../core/plugins/index.js';
import { isListening, startDaemon } from '../support/daemons.js';

const program = fileURLToPath(new URL('../../core/cli/main.js', import.meta.url));
const run = promisify(execFile);
const UPGRADES = 4;

/** Works until there is a file `stop`, and checks every result. */
const WORK = `
exec 3> removed; echo before >&3; rm removed
exec 9> lock; flock -x 9
mkdir many; i=0; while [ $i -lt 200 ]; do : > many/$i; i=$((i+1)); done
n=0
while [ ! -e stop ]; do
  echo line $n >> log || exit 1
  mkdir d$n && : > d$n/f && mv d$n/f d$n/g && rm d$n/g && rmdir d$n || exit 2
  [ $(ls many | wc -l) = 200 ] || exit 3
  echo v$n > tmp && mv tmp value && [ "$(cat value)" = v$n ] || exit 4
  n=$((n+1))
done
[ $(wc -l < log) = $n ] || exit 5
flock -n -x lock true && exit 6
echo after >&3 || exit 7
[ "$(cat /proc/$$/fd/3 | tr '\\n' ' ')" = 'before after ' ] || exit 8
exec 9>&-
flock -n -x lock true || exit 9
[ $n -gt 10 ] || exit 10
echo ok`;

function whyNoUml(): string | false {
  try {
    findUml();
    return false;
  } catch (error) {
    return (error as Error).message;
  }
}

/** Serves this machine's programs. */
function hostTools(socket: string): Promise<Daemon> {
  const backend = { type: 'passthrough', sharedDir: '/', cache: 'always', submounts: 'cross' };
  const exports = [{ tag: 'host', socket, backend, readOnly: true }];
  const log = createLogger({ level: 'error', format: 'text' });
  return Daemon.start({ exports, log, registry: new BackendRegistry() });
}

for (const accelerator of [undefined, 'uml'] as const) {
  const name = accelerator === undefined ? 'a guest of stock QEMU' : 'a guest of User-Mode Linux';
  describe(name, { skip: accelerator === 'uml' && whyNoUml() }, () => {
    it(`works on while its engine is replaced ${UPGRADES} times`, async (t) => {
      const daemon = startDaemon(t, {
        name: 'virtiofs-kit with a keeper',
        missing: undefined,
        requestQueues: 2,
        listensAgain: true,
        command: (directory, socket) =>
          [process.execPath, program, 'serve', '--keep', '--socket-path', socket].concat(
            '--tag test --log-level warn --backend passthrough --shared-dir'.split(' '),
            directory,
          ),
      });
      const { socket, directory } = daemon;
      while (!isListening(daemon)) await sleep(20);
      const tools = await hostTools(`${socket}.host`);
      t.after(() => tools.close());
      const shares = [
        { tag: 'test', socketPath: socket, mountPoint: '/mnt' },
        { tag: 'host', socketPath: `${socket}.host`, mountPoint: '/' },
      ];
      const signal = AbortSignal.timeout(240_000);
      const guest = await Guest.boot({ shares, rootTag: 'host', accelerator, signal });
      try {
        const working = guest.exec(WORK, { folder: '/mnt' });
        for (let times = 0; times < UPGRADES; times++) {
          await sleep(1500);
          const { stdout } = await run(process.execPath, [program, 'upgrade', socket]);
          t.diagnostic(stdout.trim());
          assert.match(stdout, /was replaced/);
        }
        writeFileSync(join(directory, 'stop'), '');
        const { code, stdout, stderr } = await working;
        assert.equal(`${stdout}${stderr}exit ${code}`, 'ok\nexit 0');
      } finally {
        await guest.shutdown();
      }
      assert.equal(await daemon.stop(), 0);
    });
  });
}
