/**
 * Programs in a guest whose engine is killed again and again. Each of them checks what it has done.
 * VIRTIOFS_KIT_KILLS sets another number of kills, VIRTIOFS_KIT_KILLS_OF one of the backends;
 * VIRTIOFS_KIT_KILLS_BY=upgrade has engines replaced in order instead. VIRTIOFS_KIT_KILLS_IN names
 * a QEMU, whose guests are tried instead of those of User-Mode Linux.
 */
import { strict as assert } from 'node:assert';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest } from '../../core/guest/index.js';
import { BackendRegistry, createLogger, Daemon } from '../../core/plugins/index.js';
import { type Daemon as Program, startDaemon } from '../support/daemons.js';
import { enginesOf, keeping } from '../support/keepers.js';
import { whyNoUml } from '../support/uml.js';
import {
  isAsked,
  type Kept,
  keptBackends,
  killWhile,
  KILLS,
  MOST_MS,
  mustHaveWorked,
  workScript,
  writePrograms,
} from '../support/work-under-kills.js';

/** Serves this machine's programs, and a directory of orders and answers. No engine of it ends. */
function hostTools(socket: string, orders: string): Promise<Daemon> {
  const backend = { type: 'passthrough', sharedDir: '/', cache: 'always', submounts: 'cross' };
  const exports = [
    { tag: 'host', socket, backend, readOnly: true },
    { tag: 'orders', socket: `${socket}.orders`, backend: { type: 'passthrough', sharedDir: orders } },
  ];
  const log = createLogger({ level: 'error', format: 'text' });
  return Daemon.start({ exports, log, registry: new BackendRegistry() });
}

/** A daemon with a keeper whose log is in a file beside its directory. */
function logged(words: readonly string[]): Program {
  const program = keeping(words, '--log-level', 'info');
  return {
    ...program,
    command(directory, socket) {
      const [node, ...args] = program.command(directory, socket);
      return [
        '/bin/sh',
        '-c',
        'exec "$0" "$@" 2> "$LOG"'.replace('$LOG', `${directory}.log`),
        node!,
        ...args,
      ];
    },
  };
}

const QEMU = process.env['VIRTIOFS_KIT_KILLS_IN'];
const machine = QEMU === undefined ? ({ accelerator: 'uml' } as const) : { qemu: QEMU };

async function work(t: TestContext, kept: Kept): Promise<void> {
  const program = logged(await kept.words());
  const daemon = startDaemon(t, {
    ...program,
    command(directory, socket) {
      kept.prepare?.(directory);
      return program.command(directory, socket);
    },
  });
  const { socket, directory } = daemon;
  const orders = `${directory}.orders`;
  mkdirSync(orders);
  writePrograms(orders, kept, '/srv', '/tmp');
  while (enginesOf(daemon).length < 2) await sleep(20);
  const tools = await hostTools(`${socket}.host`, orders);
  t.after(() => tools.close());
  const shares = [
    { tag: 'test', socket, mountPoint: '/mnt' },
    { tag: 'host', socket: `${socket}.host`, mountPoint: '/' },
    { tag: 'orders', socket: `${socket}.host.orders`, mountPoint: '/srv' },
  ];
  const signal = AbortSignal.timeout(240_000 + KILLS * MOST_MS);
  const guest = await Guest.boot({ shares, rootTag: 'host', ...machine, signal });
  try {
    const { stdout, stderr } = await killWhile(t, daemon, `${directory}.log`, orders, KILLS, () =>
      guest.exec(workScript('/srv'), { folder: '/mnt' }),
    );
    assert.equal(stderr, '');
    mustHaveWorked(stdout);
    if (kept.seen !== undefined) {
      const seen = join(directory, kept.seen);
      const last = readFileSync(join(seen, 'appender/log'), 'utf8').trimEnd().split('\n').at(-1);
      assert.ok(stdout.includes(`appender ${last} exit 0`), last);
      assert.ok(statSync(join(seen, 'sqlite/db')).size > 0);
    }
  } finally {
    await guest.shutdown();
  }
  assert.equal(await daemon.stop(), 0);
}

/** What is tried unless something else is asked for. `recovery.host.test.ts` has the others too. */
const USUAL = ['passthrough', 'memfs'];

describe(
  'programs in a guest work on while their engine is killed',
  { skip: QEMU === undefined && whyNoUml() },
  () => {
    for (const [name, kept] of Object.entries(keptBackends))
      it(`${KILLS} times, on ${name}`, { skip: !isAsked(name, USUAL) }, (t) => work(t, kept));
  },
);
