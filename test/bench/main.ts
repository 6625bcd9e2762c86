import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { stringify } from 'yaml';
import { plot, runBench, scenarios, toJson, toTable } from '../../core/bench/index.js';
import {
  cVirtiofsd,
  isListening,
  launch,
  ours,
  type Daemon,
  type RunningDaemon,
} from '../support/daemons.js';

/*
 * Compares this program with the C virtiofsd of Debian's qemu-system-common, in turns, on one directory in memory.
 *
 *   npm run bench -- [--backend NAME] [--rounds N] [--seconds S] [--only ROW,ROW] [--wait sleep] [--json FILE] [--plot FILE.svg]
 */

const { values } = parseArgs({
  options: {
    backend: { type: 'string', default: 'passthrough' },
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '0.5' },
    only: { type: 'string' },
    wait: { type: 'string', default: 'spin' },
    json: { type: 'string' },
    plot: { type: 'string' },
  },
});

/** What each backend serves. Those that need a server of their own are measured by `virtiofs-kit bench --socket`. */
const backends: Readonly<Record<string, (directory: string) => object>> = {
  passthrough: (sharedDir) => ({ type: 'passthrough', sharedDir }),
  memfs: () => ({ type: 'memfs', size: '2g' }),
  overlay: (sharedDir) => ({
    type: 'overlay',
    lowers: [{ type: 'passthrough', sharedDir }],
    upper: { type: 'memfs', size: '2g' },
  }),
};

const backend = backends[values.backend];
if (backend === undefined)
  throw new Error(`--backend ${values.backend}: one of ${Object.keys(backends).join(', ')}`);
const chosen =
  values.only === undefined
    ? scenarios
    : scenarios.filter(({ key }) => values.only!.split(',').includes(key));

const scratch = mkdtempSync('/dev/shm/virtiofs-kit-bench-');
const directory = join(scratch, 'shared');
mkdirSync(directory);

/** This program with the chosen backend. */
const subject: Pick<Daemon, 'command'> = {
  command(served, socket) {
    const config = join(scratch, 'config.yaml');
    writeFileSync(
      config,
      stringify({ exports: [{ tag: 'bench', socket, requestQueues: 2, backend: backend(served) }] }),
    );
    const [node, program] = ours.command(served, socket);
    return [node!, program!, 'serve', '--config', config, '--log-level', 'warn'];
  },
};

const daemons: RunningDaemon[] = [];
try {
  daemons.push(launch(subject, directory, join(scratch, 'ours')));
  if (cVirtiofsd.missing === undefined) daemons.push(launch(cVirtiofsd, directory, join(scratch, 'c')));
  else process.stderr.write(`without ${cVirtiofsd.name}: ${cVirtiofsd.missing}\n`);
  for (const daemon of daemons) while (!isListening(daemon)) await sleep(10);
  const names = [`virtiofs-kit ${values.backend}`, cVirtiofsd.name];
  const targets = daemons.map(({ socket, process: { pid } }, i) => ({ name: names[i]!, socket, pid }));
  const result = await runBench(targets, chosen, {
    rounds: Number(values.rounds),
    seconds: Number(values.seconds),
    wait: values.wait === 'sleep' ? 'sleep' : 'spin',
    onProgress: (text) => process.stderr.write(process.stderr.isTTY ? `\r\u001b[K${text}` : `${text}\n`),
  });
  process.stdout.write(`\n${toTable(result)}`);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(toJson(result), null, 2)}\n`);
  if (values.plot !== undefined) writeFileSync(values.plot, plot(result));
} finally {
  for (const daemon of daemons) await daemon.stop();
  rmSync(scratch, { recursive: true, force: true });
}
