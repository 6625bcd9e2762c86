/** Work that goes on while engines are killed, in guests and on mounts of this host. */
import { strict as assert } from 'node:assert';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { TestBucket } from '../backends/s3/support.js';
import type { RunningDaemon } from './daemons.js';
import { killEngine } from './keepers.js';

export const KILLS = Number(process.env['VIRTIOFS_KIT_KILLS'] ?? 4);
const ONLY = process.env['VIRTIOFS_KIT_KILLS_OF'];
/** Engines are replaced in order, by a signal to their keeper, and not killed. */
const BY_UPGRADE = process.env['VIRTIOFS_KIT_KILLS_BY'] === 'upgrade';

/** How long an engine serves before it is killed, at least and in milliseconds. */
const SERVES_MS = 600;

/** The guest is ended after so many milliseconds for each kill, and some minutes. */
export const MOST_MS = 20_000;

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

/**
 * Writes the programs.
 * @param orders where their users see that directory.
 * @param scratch a directory of their own, outside of what is tried.
 */
export function writePrograms(
  directory: string,
  { lacksLinks }: Kept,
  orders: string,
  scratch: string,
): void {
  for (const [name, script] of Object.entries(PROGRAMS)) {
    const own = script.replaceAll('/tmp', scratch).replaceAll('/srv', orders);
    writeFileSync(join(directory, name), lacksLinks === true ? own.replace('ln d/g', 'cp d/g') : own);
  }
}

/** All of them at once. A program that fails says so and has the others stop. */
export function workScript(orders: string): string {
  return `
for program in ${Object.keys(PROGRAMS).join(' ')}; do
  (
    mkdir $program && cd $program && sh -c "$(cat ${orders}/$program)" > ${orders}/$program.out 2>&1
    echo exit $? >> ${orders}/$program.out
    [ "$(tail -n 1 ${orders}/$program.out)" = 'exit 0' ] || : > ${orders}/failed
  ) &
done
wait
for program in ${Object.keys(PROGRAMS).join(' ')}; do echo $program $(cat ${orders}/$program.out); done`;
}

/** Every program has done something, and found it right. @param output of {@link workScript}. */
export function mustHaveWorked(output: string): void {
  const lines = output.trimEnd().split('\n');
  for (const line of lines) assert.match(line, /^\w+ [1-9]\d* exit 0$/);
  assert.equal(lines.length, Object.keys(PROGRAMS).length);
}

/** A backend that is tried. */
export interface Kept {
  /** Words for `serve` or `mount`; DIRECTORY stands for a directory of the test's own. */
  words(): Promise<readonly string[]> | readonly string[];
  /** Whether there are no hard links. Files are copied then. */
  readonly lacksLinks?: boolean;
  /** Where in that directory the guest's files are seen, if they are. */
  readonly seen?: string;
  prepare?(directory: string): void;
}

export const keptBackends: Readonly<Record<string, Kept>> = {
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

/** Lines of the log that have a text. */
function logLines(log: string, text: string): string[] {
  const lines = readFileSync(log, 'utf8').split('\n');
  return lines.filter((line) => line.includes(text));
}

/** Whether another engine has loaded its program. On a busy machine that takes seconds. */
function isNextReady(log: string): boolean {
  const served = logLines(log, 'an engine serves').length;
  return logLines(log, 'the next engine waits').length >= served;
}

const REPLACED = 'the engine was replaced';

/** Has the keeper replace its engine. */
async function upgrade({ process: keeper }: Pick<RunningDaemon, 'process'>, log: string): Promise<void> {
  const before = logLines(log, REPLACED).length;
  keeper.kill('SIGHUP');
  while (logLines(log, REPLACED).length === before) {
    assert.deepEqual(logLines(log, 'no upgrade'), []);
    await sleep(20);
  }
}

/** How long guests waited each time, in milliseconds. */
function pauses(log: string): number[] {
  const served = logLines(log, BY_UPGRADE ? REPLACED : 'an engine serves');
  return served.map((line) => Number(/pauseMs\W+(\d+)/.exec(line)![1])).filter((pauseMs) => pauseMs > 0);
}

/**
 * Kills an engine again and again while {@link workScript} runs, and then has that stop.
 * @param log a file with the log of the keeper and its engines.
 * @param orders the directory of orders, as it is seen here.
 * @param begin begins the work.
 */
export async function killWhile<Result extends { readonly stdout: string }>(
  t: TestContext,
  kept: Pick<RunningDaemon, 'process'>,
  log: string,
  orders: string,
  times: number,
  begin: () => Promise<Result>,
): Promise<Result> {
  const working = begin();
  let kills = 0;
  let hasEnded = false;
  const end = (): void => void (hasEnded = true);
  working.then(end, end);
  const hasFailed = (): boolean => hasEnded || existsSync(join(orders, 'failed'));
  const counted = join(orders, 'lines');
  const lines = (): number => (existsSync(counted) ? Number(readFileSync(counted, 'utf8')) : 0);
  const worked = async (): Promise<void> => {
    const before = lines();
    while (lines() < before + LINES && !hasFailed()) await sleep(50);
  };
  for (; kills < times && !hasFailed(); kills++) {
    await worked();
    await sleep(SERVES_MS + Math.random() * SERVES_MS);
    while (!isNextReady(log)) await sleep(50);
    await (BY_UPGRADE ? upgrade(kept, log) : killEngine(kept));
  }
  await worked();
  writeFileSync(join(orders, 'stop'), '');
  const result = await working;
  const all = pauses(log).sort((a, b) => a - b);
  t.diagnostic(
    `${kills} kills, pauses ${all[0]}, ${all[all.length >> 1]}, ${all.at(-1)} ms (least, median, most)`,
  );
  for (const line of result.stdout.trimEnd().split('\n')) t.diagnostic(line);
  assert.equal(kills, times);
  return result;
}

/** Whether a backend is to be tried. @param usual those that are unless one is asked for. */
export function isAsked(name: string, usual: readonly string[]): boolean {
  return ONLY === undefined ? usual.includes(name) : ONLY === name;
}
