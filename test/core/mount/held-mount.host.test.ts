/**
 * Mounts of this host that outlive the engine which serves them. VIRTIOFS_KIT_KILLS sets another
 * number of kills, VIRTIOFS_KIT_KILLS_OF one of the backends.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
} from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { shell } from '../../support/host-mount.js';
import { enginesOf, killEngine } from '../../support/keepers.js';
import { program } from '../../support/program.js';
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
} from '../../support/work-under-kills.js';

const run = promisify(execFile);

/** A kept mount, with its keeper and what belongs to it. */
interface Mounted {
  readonly process: ChildProcess;
  /** Where it is mounted. */
  readonly place: string;
  readonly log: string;
  /** For other files. */
  readonly folder: string;
  /** Resolves with the keeper's exit code. */
  readonly ended: Promise<number | null>;
}

interface Folders {
  readonly folder: string;
  /** For a mount. */
  readonly place: string;
  readonly data: string;
  /** Has something end before the directories are removed. */
  readonly beforeRemoval: (end: () => unknown) => void;
}

/** An empty directory with a place for a mount, and one for data. */
async function folders(t: TestContext): Promise<Folders> {
  const folder = await mkdtemp(join(tmpdir(), 'virtiofs-kit-kept-'));
  const [place, data] = [join(folder, 'mount'), join(folder, 'data')];
  for (const each of [place, data]) mkdirSync(each);
  const ends: (() => unknown)[] = [];
  t.after(async () => {
    for (const end of ends) await end();
    rmSync(folder, { recursive: true, force: true });
  });
  return { folder, place, data, beforeRemoval: (end) => void ends.push(end) };
}

async function mountKept(t: TestContext, kept: Kept, more: readonly string[] = []): Promise<Mounted> {
  const { folder, place, data, beforeRemoval } = await folders(t);
  const log = join(folder, 'log');
  kept.prepare?.(data);
  const words = (await kept.words()).map((word) => word.replace('DIRECTORY', data));
  const out = openSync(log, 'w');
  const all = ['mount', '--keep', place, '--log-level', 'info', ...words, ...more];
  const child = spawn(process.execPath, [program, ...all], { stdio: ['ignore', out, out], cwd: '/' });
  closeSync(out);
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const mounted = { process: child, place, log, folder, ended };
  beforeRemoval(() => {
    child.kill();
    return ended;
  });
  while (!isMounted(place)) {
    if (child.exitCode !== null) throw new Error(readFileSync(log, 'utf8'));
    await sleep(20);
  }
  return mounted;
}

function isMounted(place: string): boolean {
  return readFileSync('/proc/self/mounts', 'utf8').includes(` ${place} fuse`);
}

/** The keeper has ended in order, and nothing of it stays. */
async function mustBeGone({ place, ended, log }: Mounted, engines: readonly number[]): Promise<void> {
  assert.equal(await ended, 0, readFileSync(log, 'utf8'));
  assert.equal(isMounted(place), false);
  assert.deepEqual(readdirSync(place), []);
  const alive = engines.filter((pid) => readdirSync('/proc').includes(`${pid}`));
  assert.deepEqual(alive, []);
}

/** Begins a script in a directory of the mount. */
function begin(script: string, directory: string): Promise<{ stdout: string; code: number | null }> {
  const child = spawn('sh', ['-c', `cd "$0" || exit 99\n${script}`, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
    cwd: '/',
  });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  return new Promise((resolve) => child.once('close', (code) => resolve({ stdout, code })));
}

const FATAL = fileURLToPath(new URL('../../support/fatal-backend.js', import.meta.url));

/** Changes after each of which an engine is killed, once. Each must succeed, and be there. */
const CHANGES = [
  "mkdir '!d'; rmdir '!d'",
  "printf abc > log; printf '!append' >> log",
  ": > '!f'; ln '!f' '!link'; mv '!link' link; mv '!f' f",
  "ln -s f '!s'; mv '!s' s",
  "mkfifo '!p'; rm '!p'",
  "printf 1234567 > n; mv n '!n'; mv '!n' n",
  "setfattr -n user.a -v '!value' n; setfattr -x user.a n",
];

/** How many of them are tried. Each takes seconds. */
const TRIED = process.env['VIRTIOFS_KIT_MOMENTS'] === 'all' ? CHANGES.length : 2;

/** Waits until so many engines have served, and one more waits. */
async function served(log: string, times: number): Promise<void> {
  const count = (text: string): number => readFileSync(log, 'utf8').split(text).length - 1;
  while (count('an engine serves') < times || count('the next engine waits') < times) await sleep(20);
}

/** A backend of one's own without durable keys. */
const OWN = fileURLToPath(new URL('../../support/keyless-backend.js', import.meta.url));

/** The user `nobody`. */
const NOBODY = 65_534;
const AS_NOBODY = `setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups`;

/** Why a user without privileges cannot be tried. */
function whyNoUser(): string | false {
  if (process.geteuid!() !== 0) return 'only root becomes another user';
  const missing = ['fusermount3', 'setpriv', 'unshare'].filter((name) => spawnSync(name, ['--help']).error);
  if (missing.length > 0) return `no ${missing.join(', ')}`;
  const { status } = spawnSync('sh', ['-c', `exec ${AS_NOBODY} test -r ${program}`]);
  return status === 0 ? false : 'others cannot read the program';
}

/** A user's mounts: of a directory, whose engine is replaced, and of a memfs, whose is killed. */
const USED = `
waits() { while [ $(grep -c 'the next engine waits' $FOLDER/log) -lt $1 ]; do sleep 0.1; done; }
keep() {
  : > $FOLDER/log
  "$NODE" "$PROGRAM" mount $0 --keep --log-level info --control $FOLDER/control "$@" >> $FOLDER/log 2>&1 &
  keeper=$!
  waits 1
  cd $0
  exec 3> open; rm open
}
end() {
  exec 3>&-
  cd /
  fusermount3 -u $0 && wait $keeper
  code=$?
}
keep --backend passthrough --shared-dir $DATA
echo first >&3
"$NODE" "$PROGRAM" upgrade $FOLDER/control > /dev/null
echo second >&3
cat /proc/self/fd/3
end
keep --backend memfs --from $DATA
echo third >&3
kill -9 $(cut -d ' ' -f 1 /proc/$keeper/task/$keeper/children)
cat /proc/self/fd/3
mkdir d && cd d && rmdir ../d && ls
cd ..
end
echo over $code`;

/** What is tried unless something else is asked for. */
const USUAL = ['memfs'];

/** Kills, where nothing else is asked for. */
const TIMES = process.env['VIRTIOFS_KIT_KILLS'] === undefined ? 2 : KILLS;

describe('programs on a kept mount work on while its engine is killed', () => {
  for (const [name, kept] of Object.entries(keptBackends)) {
    const options = { skip: !isAsked(name, USUAL), timeout: 240_000 + TIMES * MOST_MS };
    it(`${TIMES} times, on ${name}`, options, async (t) => {
      const mounted = await mountKept(t, kept);
      const [orders, scratch] = ['orders', 'scratch'].map((each) => join(mounted.folder, each));
      for (const each of [orders!, scratch!]) mkdirSync(each);
      writePrograms(orders!, kept, orders!, scratch!);
      const { stdout } = await killWhile(t, mounted, mounted.log, orders!, TIMES, () =>
        begin(workScript(orders!), mounted.place),
      );
      mustHaveWorked(stdout);
      const engines = enginesOf(mounted);
      mounted.process.kill('SIGTERM');
      await mustBeGone(mounted, engines);
    });
  }
});

describe('a kept mount', () => {
  const { memfs, passthrough } = keptBackends;

  it('keeps locks, and who waits for them, while its engine is killed and replaced', async (t) => {
    const mounted = await mountKept(t, passthrough!);
    const { place, folder, log } = mounted;
    const flag = join(folder, 'flag');
    const pause = `: > ${flag}; while [ -e ${flag} ]; do sleep 0.05; done`;
    const paused = async (): Promise<void> => {
      while (!readdirSync(folder).includes('flag')) await sleep(20);
    };
    const script = `: > lock; exec 9> lock; flock -x 9
      for i in $(seq 40); do (flock -x lock echo granted) 9>&- & done
      exec 8> open; rm open; echo kept >&8
      mkdir given && cd given && rmdir ../given
      ${pause}
      ls; cd ..
      ${pause}
      flock -n -x lock echo taken 9>&- || echo held
      flock -u 9; exec 9>&-; wait; cat /proc/self/fd/8`;
    const working = begin(script, place);
    await paused();
    for (let kills = 0; kills < 2; kills++) {
      await served(log, kills + 1);
      await killEngine(mounted);
    }
    rmSync(flag);
    await paused();
    await served(log, 3);
    const [before] = enginesOf(mounted);
    mounted.process.kill('SIGHUP');
    while (!readFileSync(log, 'utf8').includes('the engine was replaced')) await sleep(20);
    // It has handed over, and ends.
    while (enginesOf(mounted)[0] === before) await sleep(20);
    rmSync(flag);
    assert.deepEqual(await working, { stdout: `held\n${'granted\n'.repeat(40)}kept\n`, code: 0 });
  });

  it('has each change once whose engine is killed right after it', async (t) => {
    const marks = await mkdtemp(join(tmpdir(), 'virtiofs-kit-marks-'));
    t.after(() => rmSync(marks, { recursive: true, force: true }));
    const words = () => ['--backend', FATAL, '--share', 'DIRECTORY', '--marks', marks];
    const mounted = await mountKept(t, { words });
    // An engine that ends within half a second is followed after a pause.
    const script = CHANGES.slice(0, TRIED).join('; ').replaceAll('; ', '; sleep 0.6; ');
    const { stdout, code } = await begin(`set -e; ${script}; cat log; ls`, mounted.place);
    const names = TRIED > 2 ? 'f\nlink\nlog\nn\ns\n' : 'log\n';
    assert.deepEqual([stdout, code], [`abc!append${names}`, 0]);
    const died = readFileSync(mounted.log, 'utf8').split('the engine has ended').length - 1;
    assert.equal(died, readdirSync(marks).length);
    assert.ok(died > TRIED, `${died}`);
  });

  it('ends with its keeper and its engines when somebody unmounts it', async (t) => {
    const mounted = await mountKept(t, memfs!);
    await served(mounted.log, 1);
    const engines = enginesOf(mounted);
    const { code, output } = await shell(
      `echo text > file && cat file && cd / && umount ${mounted.place}`,
      mounted.place,
    );
    assert.deepEqual([code, output], [0, 'text\n']);
    await mustBeGone(mounted, engines);
  });

  it('ends also if it is unmounted while its engine is dead', async (t) => {
    const mounted = await mountKept(t, memfs!);
    await served(mounted.log, 1);
    const [serving, waiting] = enginesOf(mounted);
    for (const pid of [serving!, waiting!]) process.kill(pid, 'SIGKILL');
    const { code } = await shell(`umount ${mounted.place}`, '/');
    assert.equal(code, 0);
    await mustBeGone(mounted, []);
  });

  it('is detached by SIGTERM while a process is in it', async (t) => {
    const mounted = await mountKept(t, memfs!);
    const working = begin(
      'mkdir d && cd d && echo in && while ls > /dev/null 2>&1; do sleep 0.1; done',
      mounted.place,
    );
    await served(mounted.log, 1);
    const engines = enginesOf(mounted);
    // A terminal, or a service manager, sends it to all of them.
    for (const pid of [mounted.process.pid!, ...engines]) process.kill(pid, 'SIGTERM');
    await mustBeGone(mounted, engines);
    assert.equal((await working).stdout, 'in\n');
  });

  it('is not there where its first engine does not start', async (t) => {
    const words = () => ['--backend', 'memfs', '--from', '/nowhere'];
    await assert.rejects(mountKept(t, { words }), /nowhere/);
  });

  it('is refused where its engine would wait for itself', async (t) => {
    const words = () => ['--backend', 'passthrough', '--shared-dir', tmpdir()];
    await assert.rejects(mountKept(t, { words }), /must not lie in one another/);
  });

  it('serves on in the background, and is upgraded at its control socket', async (t) => {
    const { folder, place, data, beforeRemoval } = await folders(t);
    const control = join(folder, 'control');
    const words = ['--backend', 'passthrough', '--shared-dir', data, '--control', control];
    const log = ['--log-file', join(folder, 'log')];
    await run(process.execPath, [program, 'mount', place, '--daemon', '--keep', ...words, ...log]);
    const status = async (): Promise<string> =>
      (await run(process.execPath, [program, 'status', control])).stdout;
    const engine = Number(/process (\d+)/.exec(await status())![1]);
    const keeper = Number(/PPid:\s+(\d+)/.exec(readFileSync(`/proc/${engine}/status`, 'utf8'))![1]);
    beforeRemoval(async () => {
      if (isMounted(place)) process.kill(keeper);
      while (existsSync(`/proc/${keeper}`)) await sleep(20);
    });
    const go = join(folder, 'go');
    const script = `exec 3> open; echo first >&3; rm open; mkdir d && cd d && rmdir ../d; : > ../in
      while [ ! -e ${go} ]; do sleep 0.05; done
      echo second >&3; cat /proc/self/fd/3; ls; mkdir new 2>&1; cd ..; ls`;
    const working = begin(script, place);
    while (!readdirSync(data).includes('in')) await sleep(20);
    const { stdout } = await run(process.execPath, [program, 'upgrade', control]);
    const [, from, to] = /^engine (\d+) was replaced by (\d+), guests paused for \d+ ms\n$/.exec(stdout)!;
    assert.equal(Number(from), engine);
    assert.ok((await status()).startsWith(`process ${to!},`));
    closeSync(openSync(go, 'w'));
    const said = "first\nsecond\nmkdir: cannot create directory 'new': No such file or directory\nin\n";
    assert.equal((await working).stdout.replaceAll(/[‘’]/g, "'"), said);
    const { code } = await shell(`umount ${place}`, '/');
    assert.equal(code, 0);
    while (existsSync(`/proc/${keeper}`)) await sleep(20);
    assert.deepEqual(readdirSync(folder).sort(), ['data', 'go', 'log', 'mount']);
  });

  it('is dead when its keeper is killed, and umount takes it away', async (t) => {
    const mounted = await mountKept(t, memfs!);
    const { place, log } = mounted;
    await served(log, 1);
    const engines = enginesOf(mounted);
    const script =
      'echo text > file; echo; while cat file > /dev/null 2>&1; do sleep 0.1; done; cat file 2>&1';
    const working = begin(script, place);
    while (!readdirSync(place).includes('file')) await sleep(20);
    mounted.process.kill('SIGKILL');
    assert.match((await working).stdout, /not connected/);
    while (engines.some((pid) => existsSync(`/proc/${pid}`))) await sleep(20);
    const { code } = await shell(`umount ${place}`, '/');
    assert.deepEqual([code, isMounted(place)], [0, false]);
  });

  it('is had by a user other than root', { skip: whyNoUser() }, async (t) => {
    const { folder, place, data } = await folders(t);
    const device = join(folder, 'fuse');
    await run('mknod', ['-m', '666', device, 'c', '10', '229']);
    for (const each of [folder, place, data]) chownSync(each, NOBODY, NOBODY);
    // Not everywhere others may open the host's /dev/fuse.
    const script = `mount --bind ${device} /dev/fuse && exec ${AS_NOBODY} sh -c "$0" "$@"`;
    const words = ['-m', '--propagation', 'private', 'sh', '-c', script, USED, place];
    const { stdout } = await run('unshare', words, {
      env: { ...process.env, NODE: process.execPath, PROGRAM: program, DATA: data, FOLDER: folder },
    });
    assert.equal(stdout, 'first\nsecond\nthird\nover 0\n');
  });

  it('ends where its backend has nothing that outlives its engine', async (t) => {
    const words = () => ['--backend', OWN];
    const mounted = await mountKept(t, { words });
    await served(mounted.log, 1);
    const engines = enginesOf(mounted);
    const working = begin('while [ -d /proc/self/cwd/. ]; do sleep 0.1; done; echo over', mounted.place);
    await sleep(300);
    await killEngine(mounted);
    await mustBeGone(mounted, engines);
    assert.equal((await working).stdout, 'over\n');
  });
});
