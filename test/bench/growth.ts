/**
 * How the cost of a request grows: with queue depth, the part of a file that is in use, names in a
 * directory, known files, open files, and guests. CPU in µs for an operation, passthrough on a
 * directory in memory, beside the C virtiofsd where it can: that keeps a descriptor for each file.
 * By hand: `node dist/test/bench/growth.js [--rounds N] [--seconds S] [--only WORD]`.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { stringify } from 'yaml';
import { getattr, lookup, runBench, type Scenario, toTable, transfer } from '../../core/bench/index.js';
import { guestsBeside, knownNodes, openFiles } from './growth-rows.js';
import { cVirtiofsd, isListening, launch, ours } from '../support/daemons.js';

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '0.3' },
    only: { type: 'string', default: '' },
  },
});

const GUESTS = 16;
const KIB = 1024;

const scenarios: readonly Scenario[] = [
  ...[1, 4, 16, 64, 256].map((depth) => getattr(`getattr-d${depth}`, `GETATTR, depth ${depth}`, depth)),
  ...[1, 4, 16, 64, 256].map((depth) =>
    transfer(`read-d${depth}`, `random read 4 KiB, depth ${depth}`, depth, 4 * KIB, 'read', 'random'),
  ),
  ...[1, 8, 64, 1024].map((extent) =>
    transfer(
      `extent-${extent}`,
      `random read 4 KiB, depth 32, within ${extent} MiB`,
      32,
      4 * KIB,
      'read',
      'random',
      extent * KIB * KIB,
    ),
  ),
  ...[10, 1000, 10_000, 100_000].map((names) =>
    lookup(`names-${names}`, `LOOKUP hit, depth 32, of ${names} names`, 32, true, names),
  ),
  ...[10, 1000, 5000, 10_000].map((count) => openFiles(count)),
  ...[10, 100, 1000, 10_000, 100_000].map((count) => knownNodes(count)),
  // The same ten files are used, among more and more others.
  ...[1000, 5000, 10_000].map((count) => openFiles(count, 10)),
  ...[1000, 10_000, 100_000, 1_000_000].map((count) => knownNodes(count, 10)),
].filter(({ key }) => key.includes(values.only));

/**
 * Rows for which the C daemon has too few descriptors, of which it usually has 20,000. It needs one
 * for each file that the guest knows, and one more for each that is open.
 */
const TOO_MUCH_FOR_C = new Set([
  'names-100000',
  'open-10000',
  'known-100000',
  'among-open-10000',
  'among-known-100000',
  'among-known-1000000',
]);

/**
 * Groups rows of one kind. Their files exist at the same time, and are removed before the next
 * kind's are made.
 */
function alike(rows: readonly Scenario[]): readonly (readonly Scenario[])[] {
  const kinds = new Map<string, Scenario[]>();
  for (const row of rows) {
    const kind = row.key.replace(/\d+$/, '');
    kinds.set(kind, [...(kinds.get(kind) ?? []), row]);
  }
  return [...kinds.values()];
}

const scratch = mkdtempSync('/dev/shm/virtiofs-kit-growth-');
const sharedDir = join(scratch, 'shared');
mkdirSync(sharedDir);
const sockets = Array.from({ length: GUESTS }, (_, i) => join(scratch, `guest-${i}`));
const config = join(scratch, 'config.yaml');
writeFileSync(
  config,
  stringify({
    exports: sockets.map((socket, i) => ({
      tag: `g${i}`,
      socket,
      backend: { type: 'passthrough', sharedDir },
    })),
  }),
);
const [node, program] = ours.command(sharedDir, sockets[0]!);
const command = (): readonly string[] => [
  node!,
  program!,
  'serve',
  '--config',
  config,
  '--log-level',
  'warn',
];
const daemon = launch({ command }, sharedDir, sockets.at(-1)!);
try {
  while (!isListening(daemon)) await sleep(10);
  const options = { rounds: Number(values.rounds), seconds: Number(values.seconds) };
  const target = { name: 'virtiofs-kit', socket: sockets[0]!, pid: daemon.process.pid };
  const both = scenarios.filter(({ key }) => cVirtiofsd.missing === undefined && !TOO_MUCH_FOR_C.has(key));
  for (const [i, rows] of alike(both).entries()) {
    // It ends with its front-end.
    const peer = launch(cVirtiofsd, sharedDir, join(scratch, `peer-${i}`));
    try {
      while (!isListening(peer)) await sleep(10);
      const other = { name: cVirtiofsd.name, socket: peer.socket, pid: peer.process.pid };
      process.stdout.write(toTable(await runBench([target, other], rows, options)));
    } finally {
      await peer.stop();
    }
  }
  const rest = scenarios.filter(({ key }) => cVirtiofsd.missing !== undefined || TOO_MUCH_FOR_C.has(key));
  for (const rows of alike(rest)) process.stdout.write(toTable(await runBench([target], rows, options)));
  for (const guests of [1, 4, GUESTS]) {
    const end = await guestsBeside(sockets.slice(1, guests));
    const row = getattr('guests', `GETATTR, depth 32, ${guests - 1} other guests mounted and idle`, 32);
    process.stdout.write(toTable(await runBench([target], [row], options)));
    end();
  }
} finally {
  await daemon.stop();
  rmSync(scratch, { recursive: true, force: true });
}
