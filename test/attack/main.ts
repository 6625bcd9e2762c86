import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import {
  createWriteStream,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { askStatus } from '../../core/cli/commands/status.js';
import { program } from '../support/program.js';
import { Canary, type Latency } from './canary.js';
import { type Setup, setups } from './setups.js';

/*
 * Attacks a daemon from several sides at once: raced requests, mutated messages, floods. Beside
 * them an honest guest works on an export of its own; its data must be right, and no request of it
 * may wait for long.
 *
 *   npm run test:attack [-- [--seconds N] [--requests N] [--messages N] [--seed N] [--heap MIB]
 *                           [--setup NAME]… [--attacker NAME]… [--pace MS]]
 *
 * With `--requests` and `--messages` an attacker ends as soon as it has sent so many.
 * `--pace` is how long the honest guest rests between its files: an attacker that is to send much
 * needs the processor.
 */

/** How long a request of the honest guest may take, in milliseconds: longer, and it was held. */
const HELD_MS = 5000;
/**
 * Descriptors that may stay: the daemon keeps some open for speed, and each queue thread opens
 * /dev/null when it first interrupts a guest.
 */
const KEPT_DESCRIPTORS = 16;
/** How long attackers, and then the daemon, may take to end, in milliseconds. */
const END_MS = 60_000;
/** Descriptors that are named, and characters of the name of each. */
const MOST_SHOWN = 10;
const MOST_NAME = 40;
/** Bytes of the file systems on which the daemon's files lie. */
const ROOM = '256m';

const attackers = ['raced-requests', 'mutated-messages', 'floods'] as const;

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_007) },
    heap: { type: 'string', default: '512' },
    pace: { type: 'string', default: '0' },
    requests: { type: 'string', default: 'Infinity' },
    messages: { type: 'string', default: 'Infinity' },
    attacker: { type: 'string', multiple: true, default: [...attackers] },
    setup: { type: 'string', multiple: true, default: setups.map(({ name }) => name) },
  },
});
const seed = Number(values.seed);
const seconds = Number(values.seconds);
const paceMs = Number(values.pace);
/** How many requests or messages of an attacker are enough. */
const enough: Readonly<Record<string, string>> = {
  'raced-requests': values.requests,
  'mutated-messages': values.messages,
};
for (const name of values.attacker) {
  if (attackers.some((known) => known === name)) continue;
  console.error(`--attacker ${name}: it is one of ${attackers.join(', ')}`);
  process.exit(1);
}

/** A mounted tmpfs, so that what attackers fill is not the machine's. */
function mountRoom(path: string): void {
  mkdirSync(path);
  const { status } = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${ROOM},nr_inodes=200k`, 'tmpfs', path]);
  if (status !== 0) throw new Error(`${path}: cannot be mounted on: this needs root`);
}

interface Daemon {
  readonly process: ChildProcess;
  /** Sockets: the attackers', the honest guest's. */
  readonly sockets: readonly [string, string];
  readonly control: string;
  readonly log: string;
}

async function start(setup: Setup, folder: string): Promise<Daemon> {
  const places = ['attacked', 'honest'].map((name) => {
    const path = join(folder, name);
    mountRoom(path);
    return { name, socket: join(folder, `${name}.sock`), path };
  });
  const config = join(folder, 'config.json');
  const { queueThreads = 0, isolate = 'none' } = setup;
  const exports: object[] = [];
  for (const { name, socket, path } of places)
    exports.push({ tag: name, socket, backend: await setup.backend(path), queueThreads, isolate });
  writeFileSync(config, JSON.stringify({ ...setup.daemon?.(folder), exports }));
  const log = join(folder, 'log');
  const control = join(folder, 'control');
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${values.heap}`, program, 'serve', '--config', config, '--control', control],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  child.stderr.pipe(createWriteStream(log));
  const sockets = places.map(({ socket }) => socket) as [string, string];
  for (let tries = 0; ; tries++) {
    if (readdirSync(folder).includes('honest.sock')) break;
    if (child.exitCode !== null || tries > 300)
      throw new Error(`the daemon did not start:\n${readFileSync(log, 'utf8')}`);
    await sleep(100);
  }
  return { process: child, sockets, control, log };
}

/** Runs one attacker. @returns what it did. */
async function attack(name: string, socket: string, number: number, endMs: number): Promise<string> {
  const path = fileURLToPath(new URL(`${name}.js`, import.meta.url));
  const words = [socket, String(seed + number), String(seconds), enough[name] ?? 'Infinity'];
  const child = spawn(process.execPath, [path, ...words], { stdio: ['ignore', 'pipe', 'inherit'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000 + endMs);
  let text = '';
  child.stdout.on('data', (data: Buffer) => (text += data.toString()));
  const code = await new Promise((resolve) =>
    child.once('exit', (status, signal) => resolve(status ?? signal)),
  );
  clearTimeout(timer);
  if (code !== 0) throw new Error(`${name} ended with ${String(code)}`);
  return `${name} ${text.trim()}`;
}

/** The daemon's process and those of its exports. */
function processesOf({ pid }: ChildProcess): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
  return [pid!, ...(children === '' ? [] : children.split(' ').map(Number))];
}

/** What the descriptors are that a daemon has open, without those that its backend keeps. */
function descriptorsOf(daemon: ChildProcess, { keepsFiles = false }: Setup): string[] {
  const isKept = (path: string): boolean =>
    keepsFiles && path.includes('/attacked/') && !path.endsWith(' (deleted)');
  return processesOf(daemon).flatMap((pid) => {
    const folder = `/proc/${pid}/fd`;
    return readdirSync(folder).flatMap((fd) => {
      try {
        const path = readlinkSync(join(folder, fd));
        return isKept(path) ? [] : [path.replace(/[0-9]+/g, 'N')];
      } catch {
        return [];
      }
    });
  });
}

/** What the daemon has of guests of the attacked export. */
async function leftOf({ control }: Daemon, { keepsFiles = false }: Setup): Promise<string> {
  const { exports } = await askStatus(control);
  const attacked = exports.find(({ tag }) => tag === 'attacked')!;
  const { nodes, handles, inFlight, locks, listingBytes, figures } = attacked;
  const kept = figures.find(({ name }) => name === 'node_descriptors')?.value ?? 1;
  const descriptors = keepsFiles ? 0 : kept - 1;
  const left = { nodes: nodes - 1, handles, inFlight, locks, listingBytes, descriptors };
  const words = Object.entries(left).filter(([, value]) => value > 0);
  return words.map(([name, value]) => `${value} ${name}`).join(', ');
}

/** What is in `after` more often than in `before`. */
function moreIn(before: readonly string[], after: readonly string[]): string {
  const left = [...before];
  const more = after.filter((name) => {
    const at = left.indexOf(name);
    if (at >= 0) left.splice(at, 1);
    return at < 0;
  });
  const shown = more.slice(0, MOST_SHOWN).map((name) => name.slice(-MOST_NAME));
  return more.length === 0 ? '' : ` (more: ${shown.join(', ')})`;
}

function memoryOf(daemon: ChildProcess): string {
  const all = processesOf(daemon).map(
    (pid) => /VmRSS:\s+(.*)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]!,
  );
  return all.join(' + ');
}

/** @returns whether so many milliseconds have passed from now on. */
function after(ms: number): () => boolean {
  const end = Date.now() + ms;
  return () => Date.now() >= end;
}

function shown({ requests, median, p99, worst, sync }: Latency): string {
  const times = `${median.toFixed(2)} / ${p99.toFixed(1)} / ${worst.toFixed(0)} ms`;
  return `${requests} requests, ${times}, syncs ${sync.toFixed(1)} ms`;
}

/** @returns what is wrong. */
async function run(setup: Setup): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'vfk-attack-'));
  const wrong: string[] = [];
  const { endMs = END_MS, keptFiles = 0 } = setup;
  const keptDescriptors = KEPT_DESCRIPTORS + keptFiles;
  const daemon = await start(setup, folder);
  const { process: child } = daemon;
  try {
    const canary = await Canary.connect(daemon.sockets[1], seed);
    const alone = await canary.work(after(Math.min(5, seconds) * 1000));
    const before = descriptorsOf(child, setup);
    let isOver = false;
    const attacking = Promise.allSettled(
      values.attacker.map((name, i) => attack(name, daemon.sockets[0], i, endMs)),
    );
    void attacking.then(() => (isOver = true));
    const beside = await canary.work(() => isOver, paceMs);
    for (const one of await attacking) {
      if (one.status === 'fulfilled') console.log(`  ${one.value}`);
      else wrong.push(String(one.reason));
    }
    console.log(
      `  the honest guest, median / 99 of 100 (without syncs) / worst: alone ${shown(alone)}; beside ${shown(beside)}`,
    );
    if (beside.worst > (setup.heldMs ?? HELD_MS))
      wrong.push(`a request of the honest guest took ${beside.worst.toFixed(0)} ms`);
    await canary.work(after(1000));
    let now = descriptorsOf(child, setup);
    let left = await leftOf(daemon, setup);
    const isMore = (): boolean => left !== '' || now.length > before.length + keptDescriptors;
    for (let tries = 0; tries < 100 && isMore(); tries++) {
      await sleep(100);
      now = descriptorsOf(child, setup);
      left = await leftOf(daemon, setup);
    }
    if (left !== '') wrong.push(`of guests that have gone there are left: ${left}`);
    const more = moreIn(before, now);
    if (now.length > before.length + keptDescriptors)
      wrong.push(`${now.length - before.length} descriptors stayed open${more}`);
    console.log(
      `  memory ${memoryOf(child)}, descriptors ${before.length} before, ${now.length} after${more}`,
    );
    canary.close();
  } catch (error) {
    wrong.push(error instanceof Error ? error.message : String(error));
  }
  if (child.exitCode !== null || child.signalCode !== null) {
    wrong.push(`the daemon ended with ${child.exitCode ?? child.signalCode}`);
  } else {
    const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
    child.kill('SIGTERM');
    const timer = setTimeout(() => child.kill('SIGKILL'), endMs);
    const code = await ended;
    clearTimeout(timer);
    if (code !== 0) wrong.push(`the daemon, told to end, ended with ${String(code)}`);
  }
  const faults = readFileSync(daemon.log, 'utf8')
    .split('\n')
    .filter((line) => line.includes('"level":50'));
  for (const line of new Set(faults.map((text) => text.slice(0, 500)))) wrong.push(`logged: ${line}`);
  for (const name of ['attacked', 'honest']) spawnSync('umount', ['-l', join(folder, name)]);
  rmSync(folder, { recursive: true, force: true });
  return wrong;
}

let failed = 0;
for (const name of values.setup) {
  const setup = setups.find((known) => known.name === name);
  if (setup === undefined) {
    console.error(`--setup ${name}: it is one of ${setups.map((known) => known.name).join(', ')}`);
    process.exit(1);
  }
  console.log(`${name}, seed ${seed}, ${seconds} s`);
  const wrong = await run(setup);
  for (const line of wrong) console.log(`  WRONG: ${line}`);
  failed += wrong.length;
}
console.log(failed === 0 ? 'nothing was found' : `${failed} found`);
process.exitCode = failed === 0 ? 0 : 1;
