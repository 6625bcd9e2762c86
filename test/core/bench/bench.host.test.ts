import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ProcessTree } from '../../../core/bench/cpu.js';
import {
  figuresOf,
  median,
  medianFigures,
  percentile,
  ratioOf,
  type Figures,
} from '../../../core/bench/figures.js';
import {
  BenchError,
  plot,
  runBench,
  scenarios,
  toJson,
  toTable,
  type BenchOptions,
} from '../../../core/bench/index.js';
import { cVirtiofsd, isListening, launch, ours, startDaemon } from '../../support/daemons.js';
import { FuseClient, ROOT } from '../../support/fuse-client.js';
import { fuseTransport, temporaryFolder, until } from '../../support/vhost-user.js';
import { FrontEnd } from '../../support/front-end.js';
import { coldStartSteps, measureColdStart } from '../../bench/cold-start-steps.js';

function makeFigures(speed: number, cpu: number | null): Figures {
  return { operationsPerSecond: speed, medianLatencyUs: 1, p99LatencyUs: 2, cpuUsPerOperation: cpu };
}

function isOneLine(error: unknown): boolean {
  return error instanceof BenchError && !error.message.includes('\n');
}

test('figures are rates, percentiles and CPU time for an operation', () => {
  const latenciesUs = Float64Array.from({ length: 100 }, (_, i) => i);
  assert.deepEqual(figuresOf({ operations: 200, seconds: 2, cpuSeconds: 0.001, latenciesUs }), {
    operationsPerSecond: 100,
    medianLatencyUs: 50,
    p99LatencyUs: 99,
    cpuUsPerOperation: 5,
  });
  assert.equal(
    figuresOf({ operations: 1, seconds: 1, cpuSeconds: Number.NaN, latenciesUs }).cpuUsPerOperation,
    null,
  );
  assert.equal(percentile(Float64Array.of(7), 0.99), 7);
});

test('medians are taken over rounds, and ratios round by round', () => {
  assert.equal(median([3, 1, 2]), 2);
  assert.equal(median([4, 1, 2, 3]), 2.5);
  const three = medianFigures([makeFigures(1, 10), makeFigures(9, null), makeFigures(2, 30)]);
  assert.deepEqual(three, makeFigures(2, 20));
  assert.equal(medianFigures([makeFigures(1, null)]).cpuUsPerOperation, null);
  // Both were slow in the second round: their ratio was not.
  assert.deepEqual(ratioOf([20, 2, 30], [10, 1, 10]), { median: 2, least: 2, most: 3 });
});

test('CPU time of a process counts its descendants', async (t) => {
  const busy =
    'const end = process.cpuUsage().user + 2e5; while (process.cpuUsage().user < end); setInterval(() => {}, 1e6)';
  const parent = `require('child_process').spawn(process.execPath, ['-e', ${JSON.stringify(busy)}], { stdio: 'inherit' })`;
  const child = spawn(process.execPath, ['-e', `${parent}; setInterval(() => {}, 1e6)`], { detached: true });
  await once(child, 'spawn');
  t.after(() => process.kill(-child.pid!, 'SIGKILL'));
  const tree = new ProcessTree(child.pid!);
  await until(() => tree.cpuSeconds() > 0.25, 'both have used the processor');
  assert.ok(tree.residentBytes() > 2 ** 20);
  assert.throws(() => new ProcessTree(2 ** 22 + 1), /there is none/);
});

test('CPU time of a process is that of its threads in the scheduler', async (t) => {
  const busy =
    'for (const end = Date.now() + 300; Date.now() < end;); process.stdout.write("x"); setInterval(() => {}, 1e6)';
  const child = spawn(process.execPath, ['-e', busy], { stdio: ['ignore', 'pipe', 'ignore'] });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const tree = new ProcessTree(child.pid!);
  child.kill('SIGSTOP');
  await until(
    () => /^State:\s+T/m.test(readFileSync(`/proc/${child.pid}/status`, 'latin1')),
    'it has stopped',
  );
  const threads = readdirSync(`/proc/${child.pid}/task`).map((task) =>
    Number(readFileSync(`/proc/${child.pid}/task/${task}/schedstat`, 'latin1').split(' ')[0]),
  );
  const seconds = threads.reduce((sum, one) => sum + one, 0) / 1e9;
  // Threads that have ended are counted, too.
  assert.ok(
    tree.cpuSeconds() >= seconds && tree.cpuSeconds() < seconds + 0.05,
    `${tree.cpuSeconds()} and ${seconds}`,
  );
});

const missing = cVirtiofsd.missing ?? false;

/** A file system in memory. */
const MEMORY = '/dev/shm';

/** One of each kind, and one row with and without time between its requests. */
const KEYS =
  'write-seq-128k read-seq-1m read-rand-4k-d32 getattr-d1 lookup-hit-d1 lookup-hit-d1-20us lookup-miss-d32 create-d8 small-read-d8 readdirplus unlink-d8 rename-d8 mixed-2q';
const chosen = scenarios.filter(({ key }) => KEYS.split(' ').includes(key));

test(
  'every kind of scenario runs on both daemons in turns, and leaves nothing behind',
  { skip: missing },
  async (t) => {
    const running = [startDaemon(t, ours, MEMORY), startDaemon(t, cVirtiofsd, MEMORY)];
    for (const daemon of running) await until(() => isListening(daemon), 'the daemon listens');
    const targets = running.map(({ socket }, i) => ({ name: ['ours', 'C'][i]!, socket }));
    const result = await runBench(targets, chosen, {
      seconds: 0.01,
      rounds: 2,
      warmUpSeconds: 0.01,
      wait: 'sleep',
    });
    assert.equal(result.rows.length, chosen.length);
    for (const { scenario, measurements } of result.rows) {
      for (const { target, rounds } of measurements) {
        assert.equal(rounds.length, 2, `${scenario.key} of ${target.name}`);
        for (const figures of rounds) {
          for (const value of Object.values(figures))
            assert.ok(value > 0, `${scenario.key} of ${target.name}`);
        }
      }
    }
    for (const { directory } of running) assert.deepEqual(readdirSync(directory), []);

    const lines = toTable(result).split('\n');
    for (const { scenario } of result.rows)
      assert.ok(
        lines.some((line) => line.startsWith(scenario.title)),
        scenario.title,
      );
    assert.ok(
      lines.includes('C: 1 request queue, ' + lines.find((line) => line.startsWith('C: '))!.split(', ')[1]),
    );
    const json = JSON.parse(JSON.stringify(toJson(result))) as { rows: { key: string; ratios: object[] }[] };
    assert.deepEqual(
      json.rows.map(({ key }) => key),
      chosen.map(({ key }) => key),
    );
    assert.ok(json.rows.every(({ ratios }) => ratios.length === 1));
    const svg = plot(result);
    assert.match(svg, /^<svg xmlns="http:\/\/www.w3.org\/2000\/svg"[^]*<\/svg>\n$/);
    assert.equal(svg.match(/<rect/g)!.length, 1 + 2 + 4 * chosen.length);
  },
);

test('one daemon is measured alone, by spinning', async (t) => {
  const daemon = startDaemon(t, ours, MEMORY);
  await until(() => isListening(daemon), 'the daemon listens');
  const two = scenarios.filter(({ key }) => ['getattr-d1', 'mixed-2q'].includes(key));
  const options = { seconds: 0.02, warmUpSeconds: 0.01, wait: 'spin', segmentBytes: 65536 } as const;
  const { rows, targets } = await runBench([{ name: 'ours', socket: daemon.socket }], two, options);
  assert.deepEqual(
    rows.map(({ measurements }) => measurements.length),
    [1, 1],
  );
  assert.equal(targets[0]!.requestQueues, 2);
});

/** What this process did while a daemon was measured, for each operation. */
async function costOf(socket: string, key: string, options: BenchOptions) {
  const row = scenarios.filter((scenario) => scenario.key === key);
  const before = process.resourceUsage();
  const result = await runBench([{ name: 'x', socket }], row, { warmUpSeconds: 0.01, ...options });
  const { voluntaryContextSwitches, userCPUTime, systemCPUTime } = process.resourceUsage();
  const [figures] = result.rows[0]!.measurements[0]!.rounds;
  const operations = figures!.operationsPerSecond * options.seconds!;
  return {
    figures: figures!,
    operations,
    sleeps: voluntaryContextSwitches - before.voluntaryContextSwitches,
    cpu: (userCPUTime + systemCPUTime - before.userCPUTime - before.systemCPUTime) / operations,
  };
}

test('a front-end sleeps between a request and its answer, and spins only where it is told to', async (t) => {
  const daemon = startDaemon(t, ours, MEMORY);
  await until(() => isListening(daemon), 'the daemon listens');
  /** For a request more: what comes before the requests sleeps, too. */
  const sleeps = async (options: BenchOptions): Promise<number> => {
    const short = await costOf(daemon.socket, 'getattr-d1', { ...options, seconds: 0.02 });
    const long = await costOf(daemon.socket, 'getattr-d1', { ...options, seconds: 0.5 });
    return (long.sleeps - short.sleeps) / (long.operations - short.operations);
  };
  const asleep = await sleeps({});
  assert.ok(asleep > 0.5, `${asleep} sleeps for a request`);
  const awake = await sleeps({ wait: 'spin' });
  assert.ok(awake < 0.3, `${awake} sleeps for a request`);
});

test('time passes between requests, in work or in sleep, and is not counted as latency', async (t) => {
  const daemon = startDaemon(t, ours, MEMORY);
  await until(() => isListening(daemon), 'the daemon listens');
  const options = { seconds: 0.6, thinkTimeUs: 40_000 };
  for (const key of ['getattr-d1', 'create-d1']) {
    const working = await costOf(daemon.socket, key, options);
    const sleeping = await costOf(daemon.socket, key, { ...options, thinkBy: 'sleep' });
    assert.ok(sleeping.cpu < working.cpu / 2, `${sleeping.cpu} and ${working.cpu} µs for a request`);
    for (const { figures } of [working, sleeping]) {
      // A pause of 40 ms is before every request but the first.
      const most = 25 + 1 / options.seconds;
      assert.ok(figures.operationsPerSecond < most, `${figures.operationsPerSecond} a second`);
      assert.ok(figures.medianLatencyUs < 40_000);
    }
  }
});

test("a daemon's first operations of each kind are measured beside later ones", async (t) => {
  const daemon = startDaemon(t, ours, MEMORY);
  await until(() => isListening(daemon), 'the daemon listens');
  const options = { files: 100, warmUpSeconds: 0.01, hotPasses: 2 };
  const { cold, hot } = await measureColdStart({ name: 'x', socket: daemon.socket }, options);
  for (const [i, { key }] of coldStartSteps.entries()) {
    for (const figures of [cold[i]!, hot[i]!]) {
      for (const value of Object.values(figures)) assert.ok(value > 0, key);
    }
  }
  assert.deepEqual(readdirSync(daemon.directory), []);
});

/** A file system in memory with little room. */
const small = (size: string) => ({
  command: (directory: string, socket: string) => {
    const words = ours.command(directory, socket);
    return words.slice(0, words.indexOf('--backend')).concat('--backend', 'memfs', '--size', size);
  },
});

for (const [key, size, what] of [
  ['read-rand-4k-d32', '10m', 'the file that is read'],
  ['small-read-d8', '2m', 'a directory of files'],
  ['create-d8', '4m', 'what is measured'],
] as const) {
  test(`a daemon without room for ${what} is an error of one line, and its files are removed`, async (t) => {
    const folder = temporaryFolder(t);
    const socket = join(folder, 'socket');
    const daemon = launch(small(size), folder, socket);
    t.after(() => daemon.stop('SIGKILL'));
    await until(() => isListening(daemon), 'the daemon listens');
    const chosenOne = scenarios.filter((scenario) => scenario.key === key);
    const options = { seconds: 30, rounds: 2, warmUpSeconds: 30, wait: 'sleep' } as const;
    const running = runBench([{ name: 'x', socket }], chosenOne, options);
    await assert.rejects(running, (error) => isOneLine(error) && String(error).endsWith('errno 28'));
    const frontEnd = await FrontEnd.connect(socket);
    t.after(() => frontEnd.close());
    const client = new FuseClient(fuseTransport(frontEnd));
    await client.init();
    assert.deepEqual(await client.list(ROOT), []);
  });
}

test('a daemon that is not there, or goes away, is an error of one line', async (t) => {
  const nowhere = join(temporaryFolder(t), 'nowhere');
  await assert.rejects(runBench([{ name: 'x', socket: nowhere }], scenarios), isOneLine);
  const daemon = startDaemon(t, ours, MEMORY);
  await until(() => isListening(daemon), 'the daemon listens');
  const onProgress = () => process.kill(daemon.process.pid!, 'SIGKILL');
  await assert.rejects(
    runBench([{ name: 'x', socket: daemon.socket }], scenarios, { onProgress }),
    isOneLine,
  );
});
