import { strict as assert } from 'node:assert';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest } from '../../core/guest/index.js';
import { whyNoUml } from '../support/uml.js';
import { BackendRegistry, createLogger, Daemon } from '../../core/plugins/index.js';
import { type RunningDaemon, startDaemon } from '../support/daemons.js';
import { enginesOf, keptPassthrough, killEngine, upgrade } from '../support/keepers.js';

/** How often an engine is replaced or killed; VIRTIOFS_KIT_ENGINES=200 for a long run. */
const TIMES = Number(process.env['VIRTIOFS_KIT_ENGINES'] ?? 2);

/** Rounds of work between two of them. */
const ROUNDS = 5;

/** How an engine makes room for the next. @returns what was done. */
const changes: Readonly<Record<string, (daemon: RunningDaemon) => Promise<string>>> = {
  replaced: async (daemon) => `paused for ${await upgrade(daemon)} ms`,
  killed: async (daemon) => `killed ${await killEngine(daemon)}`,
};

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
  ln log link$n && [ -e link$n ] && rm link$n && ln -s log s$n && rm s$n || exit 11
  mkdir d$n && mkfifo d$n/p && rm -r d$n || exit 12
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

/** How often the guest has gone through its work. */
function linesOf(directory: string): number {
  const log = join(directory, 'log');
  return existsSync(log) ? readFileSync(log, 'utf8').split('\n').length : 0;
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
    for (const [what, change] of Object.entries(changes)) {
      it(`works on while its engine is ${what} ${TIMES} times`, async (t) => {
        const daemon = startDaemon(t, keptPassthrough);
        const { socket, directory } = daemon;
        // The keeper listens before an engine serves. QEMU would leave its other daemon alone for
        // too long meanwhile.
        while (enginesOf(daemon).length < 2) await sleep(20);
        const tools = await hostTools(`${socket}.host`);
        t.after(() => tools.close());
        const shares = [
          { tag: 'test', socket, mountPoint: '/mnt' },
          { tag: 'host', socket: `${socket}.host`, mountPoint: '/' },
        ];
        const signal = AbortSignal.timeout(240_000 + TIMES * 20_000);
        const guest = await Guest.boot({ shares, rootTag: 'host', accelerator, signal });
        try {
          const working = guest.exec(WORK, { folder: '/mnt' });
          const worked = async (): Promise<void> => {
            const before = linesOf(directory);
            while (linesOf(directory) < before + ROUNDS) await sleep(50);
          };
          for (let times = 0; times < TIMES; times++) {
            await Promise.race([worked(), working]);
            t.diagnostic(await change(daemon));
          }
          await Promise.race([worked(), working]);
          writeFileSync(join(directory, 'stop'), '');
          const { code, stdout, stderr } = await working;
          assert.equal(`${stdout}${stderr}exit ${code}`, 'ok\nexit 0');
        } finally {
          await guest.shutdown();
        }
        assert.equal(await daemon.stop(), 0);
      });
    }
  });
}
