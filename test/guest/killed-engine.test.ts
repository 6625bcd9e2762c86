/**
 * Programs in a guest whose engine is killed again and again. Each of them checks what it has done.
 * VIRTIOFS_KIT_KILLS sets another number of kills, VIRTIOFS_KIT_KILLS_OF one of the backends.
 */
import { strict as assert } from 'node:assert';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Guest } from '../../core/guest/index.js';
import { BackendRegistry, createLogger, Daemon } from '../../core/plugins/index.js';
import { type Daemon as Program, startDaemon } from '../support/daemons.js';
import { enginesOf, keeping, killEngine } from '../support/keepers.js';
import { TestBucket } from '../backends/s3/support.js';
import { whyNoUml } from '../support/uml.js';

const KILLS = Number(process.env['VIRTIOFS_KIT_KILLS'] ?? 4);
const ONLY = process.env['VIRTIOFS_KIT_KILLS_OF'];

/** How long an engine serves before it is killed, at least and in milliseconds. */
const SERVES_MS = 600;

/** The guest is ended after so many milliseconds for each kill, and some minutes. */
const MOST_MS = 20_000;

/** What the appender does at least between two kills. */
const LINES = 3;

/** Each works until there is a file `stop` in the directory of orders, and then says how often. */
const PROGRAMS: Readonly<Record<string, string>> = {
  // What was committed is there, in both tables or in none, and once.
  sqlite: `
n=0
sqlite3 db "PRAGMA journal_mode=DELETE; CREATE TABLE t(n INTEGER); CREATE TABLE u(n INTEGER);" > /dev/null || exit 1
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  sqlite3 db "BEGIN; INSERT INTO t VALUES($n); INSERT INTO u VALUES($n); COMMIT;" || exit 2
done
[ "$(sqlite3 db 'PRAGMA integrity_check')" = ok ] || exit 3
expected="$n|$n|$n"
[ "$(sqlite3 db 'SELECT count(*), count(DISTINCT n), max(n) FROM t')" = "$expected" ] || exit 4
[ "$(sqlite3 db 'SELECT count(*), count(DISTINCT n), max(n) FROM u')" = "$expected" ] || exit 5
echo $n`,
  fio: `
n=0
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  fio --name=f --rw=randrw --size=2m --bsrange=512-16k --verify=crc32c --verify_fatal=1 --do_verify=1 \\
    --verify_state_save=0 --fallocate=none --ioengine=psync --minimal > out 2>&1 || { cat out; exit 1; }
  rm -f f.*
done
echo $n`,
  git: `
export HOME=/tmp GIT_CONFIG_NOSYSTEM=1
mkdir /tmp/repository && cd /tmp/repository || exit 1
git init -q && git config user.name n && git config user.email e || exit 2
for i in 1 2 3 4 5 6 7 8; do mkdir d$i; for j in 1 2 3 4 5 6; do echo $i$j > d$i/f$j; done; git add . && git commit -qm $i || exit 3; done
cd - > /dev/null
n=0
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  git clone -q --no-hardlinks /tmp/repository clone 2> out || { cat out; exit 4; }
  git -C clone fsck --strict 2> out || { cat out; exit 5; }
  [ -z "$(git -C clone status --porcelain)" ] || { git -C clone status --porcelain; exit 6; }
  [ $(find clone -type f -path '*/f*' | wc -l) -ge 48 ] || exit 7
  rm -r clone || exit 8
done
echo $n`,
  lockers: `
locker() {
  n=0
  while [ $n = 0 ] || [ ! -e /srv/stop ]; do
    flock -x lock sh -c 'read c < counter; echo $((c+1)) > counter' || exit 1
    n=$((n+1))
  done
  echo $n > "$1"
}
echo 0 > counter
locker a & locker b & wait
[ $(cat counter) = $(($(cat a) + $(cat b))) ] || { echo "$(cat counter) of $(cat a) and $(cat b)"; exit 2; }
cat counter`,
  walker: `
i=0; while [ $i -lt 300 ]; do : > name$i; i=$((i+1)); done
n=0
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  [ $(ls | sort -u | wc -l) = 300 ] || { ls | wc -l; exit 1; }
  [ $(find . -name 'name*' -size 0 | wc -l) = 300 ] || exit 2
done
echo $n`,
  appender: `
n=0
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  echo $n >> log || exit 1
  echo $n > /srv/lines
done
seq $n | cmp - log || exit 2
echo $n`,
  removed: `
n=0
exec 4> first; echo first >&4; rm first
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  exec 3> file; echo before $n >&3; rm file || exit 1
  echo after $n >&3 || exit 2
  [ "$(cat /proc/self/fd/3 | tr '\\n' ' ')" = "before $n after $n " ] || exit 3
  exec 3>&-
  mkdir d && cd d && rmdir ../d && [ -z "$(ls)" ] || exit 4
  cd ..
done
echo last >&4
[ "$(cat /proc/self/fd/4 | tr '\\n' ' ')" = 'first last ' ] || exit 5
echo $n`,
  names: `
n=0
while [ $n = 0 ] || [ ! -e /srv/stop ]; do
  n=$((n+1))
  mkdir d && echo $n > d/f && mv d/f d/g && ln d/g h && ln -s g d/s || exit 1
  [ "$(cat h d/s)" = "$n
$n" ] || exit 2
  rm d/g d/s && mv h d/h && [ "$(cat d/h)" = $n ] && rm d/h && rmdir d || exit 3
  set -C; echo $n > exclusive || exit 4; set +C
  rm exclusive || exit 5
done
echo $n`,
};

/** All of them at once. A program that fails says so and has the others stop. */
const WORK = `
for program in ${Object.keys(PROGRAMS).join(' ')}; do
  (
    mkdir $program && cd $program && sh -c "$(cat /srv/$program)" > /srv/$program.out 2>&1
    echo exit $? >> /srv/$program.out
    [ "$(tail -n 1 /srv/$program.out)" = 'exit 0' ] || : > /srv/failed
  ) &
done
wait
for program in ${Object.keys(PROGRAMS).join(' ')}; do echo $program $(cat /srv/$program.out); done`;

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

interface Kept {
  /** Words for `serve`; DIRECTORY stands for a directory of the test's own. */
  words(): Promise<readonly string[]> | readonly string[];
  /** Whether there are no hard links. Files are copied then. */
  readonly lacksLinks?: boolean;
  /** Where in that directory the guest's files are seen, if they are. */
  readonly seen?: string;
  prepare?(directory: string): void;
}

const backends: Readonly<Record<string, Kept>> = {
  passthrough: { words: () => ['--backend', 'passthrough', '--shared-dir', 'DIRECTORY'], seen: '.' },
  memfs: { words: () => ['--backend', 'memfs'] },
  'an overlay of memfs': {
    words: () => ['--backend', 'overlay', '--lower', 'DIRECTORY', '--upper', 'memfs'],
  },
  overlay: {
    words: () => ['--backend', 'overlay', '--lower', 'DIRECTORY/lower', '--upper', 'DIRECTORY/upper'],
    seen: 'upper',
    prepare(directory) {
      mkdirSync(join(directory, 'lower'));
      mkdirSync(join(directory, 'upper'));
    },
  },
  s3: {
    async words() {
      const { name, endpoint } = await TestBucket.create();
      const bucket = ['--bucket', name, '--endpoint', endpoint, '--path-style'];
      return ['--backend', 's3', ...bucket, '--cache-dir', 'DIRECTORY'];
    },
    lacksLinks: true,
  },
};

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

/** Lines of the log that have a text. */
function logLines(directory: string, text: string): string[] {
  const lines = readFileSync(`${directory}.log`, 'utf8').split('\n');
  return lines.filter((line) => line.includes(text));
}

/** Whether another engine has loaded its program. On a busy machine that takes seconds. */
function isNextReady(directory: string): boolean {
  const served = logLines(directory, 'an engine serves').length;
  return logLines(directory, 'the next engine waits').length >= served;
}

/** How long guests waited each time, in milliseconds. */
function pauses(directory: string): number[] {
  const served = logLines(directory, 'an engine serves');
  return served.map((line) => Number(/pauseMs\W+(\d+)/.exec(line)![1])).filter((pauseMs) => pauseMs > 0);
}

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
  for (const [name, script] of Object.entries(PROGRAMS))
    writeFileSync(join(orders, name), kept.lacksLinks === true ? script.replace('ln d/g', 'cp d/g') : script);
  while (enginesOf(daemon).length < 2) await sleep(20);
  const tools = await hostTools(`${socket}.host`, orders);
  t.after(() => tools.close());
  const shares = [
    { tag: 'test', socket, mountPoint: '/mnt' },
    { tag: 'host', socket: `${socket}.host`, mountPoint: '/' },
    { tag: 'orders', socket: `${socket}.host.orders`, mountPoint: '/srv' },
  ];
  const signal = AbortSignal.timeout(240_000 + KILLS * MOST_MS);
  const guest = await Guest.boot({ shares, rootTag: 'host', accelerator: 'uml', signal });
  try {
    const working = guest.exec(WORK, { folder: '/mnt' });
    let kills = 0;
    let hasEnded = false;
    const end = (): void => void (hasEnded = true);
    working.then(end, end);
    const hasFailed = (): boolean => hasEnded || existsSync(join(orders, 'failed'));
    const log = join(orders, 'lines');
    const lines = (): number => (existsSync(log) ? Number(readFileSync(log, 'utf8')) : 0);
    const worked = async (): Promise<void> => {
      const before = lines();
      while (lines() < before + LINES && !hasFailed()) await sleep(50);
    };
    for (; kills < KILLS && !hasFailed(); kills++) {
      await worked();
      await sleep(SERVES_MS + Math.random() * SERVES_MS);
      while (!isNextReady(directory)) await sleep(50);
      await killEngine(daemon);
    }
    await worked();
    writeFileSync(join(orders, 'stop'), '');
    const { stdout, stderr } = await working;
    const all = pauses(directory).sort((a, b) => a - b);
    t.diagnostic(
      `${kills} kills, pauses ${all[0]}, ${all[all.length >> 1]}, ${all.at(-1)} ms (least, median, most)`,
    );
    for (const line of stdout.trimEnd().split('\n')) t.diagnostic(line);
    assert.equal(stderr, '');
    for (const line of stdout.trimEnd().split('\n')) assert.match(line, /^\w+ [1-9]\d* exit 0$/);
    assert.equal(stdout.trimEnd().split('\n').length, Object.keys(PROGRAMS).length);
    assert.equal(kills, KILLS);
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

function isAsked(name: string): boolean {
  return ONLY === undefined ? USUAL.includes(name) : ONLY === name;
}

describe('programs in a guest work on while their engine is killed', { skip: whyNoUml() }, () => {
  for (const [name, kept] of Object.entries(backends))
    it(`${KILLS} times, on ${name}`, { skip: !isAsked(name) }, (t) => work(t, kept));
});
