import { LATENCY_BOUNDS_US, LATENCY_BUCKETS } from '../fuse/index.js';
import { slowOpcodes, slowText } from './slow-opcodes.js';
import { LEAST_FREE } from './status.js';
import type { DaemonStatus, ExportStatus, LockWait } from './status-json.js';
import { sum } from './sum.js';

/** Rows of opcodes in {@link topText}. */
const MOST_OPCODES = 12;
/** The busiest files, or processes, that are shown of an export. */
const MOST_BUSY = 5;
/** A request that waits for longer is told, in seconds. */
const LONG_SECONDS = 1;

/** What a daemon has done since its start, and what there is now: lines for a terminal. */
export function statusText(status: DaemonStatus): string[] {
  const { exports } = status;
  const lines = [
    ...processLines(status),
    '',
    ...table([
      ['export', 'backend', 'guests', 'files', 'open', 'in flight', 'locks', 'waiting', 'requests', 'failed'],
      ...exports.map((one) => [
        one.tag,
        one.backend,
        `${one.guests.length}`,
        whole(one.nodes),
        whole(one.handles),
        whole(one.inFlight),
        whole(one.locks),
        whole(one.waitingLocks),
        whole(total(one.requests)),
        whole(total(one.failures)),
      ]),
    ]),
  ];
  for (const one of exports) lines.push(...details(one));
  return lines;
}

/**
 * What happened between two looks, in numbers a second: lines for a terminal, busiest first.
 * @param last the look before, of the same daemon.
 * @param most lines that there is room for: of the exports, those that do least are left out.
 */
export function topText(last: DaemonStatus, now: DaemonStatus, most = Infinity): string[] {
  const before = { ...last, exports: now.exports.flatMap((one) => exportBefore(last, one)) };
  const seconds = Math.max(now.time - before.time, 1e-3);
  const rates = now.exports.map((one) => rateOf(before, one, seconds));
  rates.sort((a, b) => b.requests - a.requests);
  // What a process that has ended had used is not in the sum any more.
  const cpu = Math.max(0, (now.cpuSeconds - before.cpuSeconds) / seconds) * 100;
  const head = [...processLines(now, `${cpu.toFixed(0)}% CPU`), ''];
  const exported = table([
    [
      'export',
      'guests',
      'requests/s',
      'read',
      'written',
      'half within',
      '99% within',
      'errors/s',
      'in flight',
    ],
    ...rates.map(({ one, requests, failures, readBytes, writtenBytes, buckets }) => [
      one.tag,
      `${one.guests.length}`,
      whole(requests),
      `${bytes(readBytes)}/s`,
      `${bytes(writtenBytes)}/s`,
      quantile(buckets, 0.5),
      quantile(buckets, 0.99),
      whole(failures),
      whole(one.inFlight),
    ]),
  ]);
  const lines = [
    '',
    ...table([['opcode', 'requests/s', 'average', '99% within'], ...opcodeRows(before, now, seconds)]),
  ];
  lines.push(...busiest(before, now, seconds));
  for (const one of now.exports)
    lines.push(
      ...troubles(
        before.exports.find(({ tag }) => tag === one.tag),
        one,
      ),
    );
  // Those that do least are left out where there is no room for all.
  const room = most - head.length - lines.length;
  if (exported.length <= room) return [...head, ...exported, ...lines];
  const shown = Math.max(2, room - 1);
  const left = exported.length - shown;
  return [...head, ...exported.slice(0, shown), ...(left > 0 ? [`and ${left} more`] : []), ...lines];
}

type BusyFile = ExportStatus['busiestFiles'][number];
type BusyProcess = ExportStatus['busiestProcesses'][number];

function fileText({ ino, requests }: BusyFile): string {
  return `inode ${ino} (${whole(requests)})`;
}

function processText({ guest, pid, requests }: BusyProcess): string {
  // Linux names no process where it writes back, forgets or releases by itself.
  const who = pid === 0 ? 'the kernel' : `${pid}`;
  return `${who} of guest ${guest} (${whole(requests)})`;
}

const processKey = ({ guest, pid }: BusyProcess): string => `${guest} ${pid}`;

/** Which files and processes of each export have had most requests since the look before. */
function busiest(before: DaemonStatus, now: DaemonStatus, seconds: number): string[] {
  const rows = now.exports.flatMap((one) => {
    const old = before.exports.find(({ tag }) => tag === one.tag);
    const files = since(old?.busiestFiles ?? [], one.busiestFiles, ({ ino }) => ino, seconds);
    const processes = since(old?.busiestProcesses ?? [], one.busiestProcesses, processKey, seconds);
    if (processes.length === 0) return [];
    const told = [`${one.tag}: busiest processes, requests/s: ${processes.map(processText).join(', ')}`];
    if (files.length > 0)
      told.push(`${one.tag}: busiest files, requests/s: ${files.map(fileText).join(', ')}`);
    return told;
  });
  return rows.length === 0 ? [] : ['', ...rows];
}

/**
 * An export at the look before; none if its process was started since, so that its counts have
 * begun anew. One that did not answer then has no rates yet.
 */
function exportBefore({ exports, time }: DaemonStatus, one: ExportStatus): ExportStatus[] {
  const old = exports.find(({ tag }) => tag === one.tag);
  if (old === undefined || old.started === one.started) return old === undefined ? [] : [old];
  return one.started >= time ? [] : [one];
}

/** Requests a second of those that were busiest. */
function since<T extends { readonly requests: number }>(
  then: readonly T[],
  now: readonly T[],
  keyOf: (one: T) => string,
  seconds: number,
): T[] {
  const counts = new Map(then.map((one) => [keyOf(one), one.requests]));
  return now
    .map((one) => ({ ...one, requests: (one.requests - (counts.get(keyOf(one)) ?? 0)) / seconds }))
    .filter(({ requests }) => requests > 0)
    .toSorted((a, b) => b.requests - a.requests)
    .slice(0, MOST_BUSY);
}

interface Rate {
  readonly one: ExportStatus;
  readonly requests: number;
  readonly failures: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
  /** Timed requests by bucket, of all opcodes. */
  readonly buckets: readonly number[];
}

function rateOf(before: DaemonStatus, one: ExportStatus, seconds: number): Rate {
  const old = before.exports.find(({ tag }) => tag === one.tag);
  const rate = (of: (status: ExportStatus) => number): number =>
    (of(one) - (old === undefined ? 0 : of(old))) / seconds;
  const all = Object.keys(one.latencies).map((opcode) => latencyOf(old, one, opcode).buckets);
  return {
    one,
    requests: rate(({ requests }) => total(requests)),
    failures: rate(({ failures }) => total(failures)),
    readBytes: rate(({ readBytes }) => readBytes),
    writtenBytes: rate(({ writtenBytes }) => writtenBytes),
    buckets: sumOf(all),
  };
}

type Latency = ExportStatus['latencies'][string];

/** What was timed of an opcode since the look before. */
function latencyOf(old: ExportStatus | undefined, one: ExportStatus, opcode: string): Latency {
  const now = one.latencies[opcode];
  const then = old?.latencies[opcode];
  if (now === undefined) return { sumUs: 0, buckets: [] };
  if (then === undefined) return now;
  return {
    sumUs: now.sumUs - then.sumUs,
    buckets: now.buckets.map((value, index) => value - (then.buckets[index] ?? 0)),
  };
}

function requestsOf({ exports }: DaemonStatus, opcode: string): number {
  return sum(exports.map(({ requests }) => requests[opcode] ?? 0));
}

function opcodeRows(before: DaemonStatus, now: DaemonStatus, seconds: number): string[][] {
  const opcodes = [...new Set(now.exports.flatMap(({ requests }) => Object.keys(requests)))];
  return opcodes
    .map((opcode) => ({ opcode, rate: (requestsOf(now, opcode) - requestsOf(before, opcode)) / seconds }))
    .filter(({ rate }) => rate > 0)
    .toSorted((a, b) => b.rate - a.rate)
    .slice(0, MOST_OPCODES)
    .map(({ opcode, rate }) => {
      const parts = now.exports.map((one) =>
        latencyOf(
          before.exports.find(({ tag }) => tag === one.tag),
          one,
          opcode,
        ),
      );
      const buckets = sumOf(parts.map((part) => part.buckets));
      const timed = sum(buckets);
      const sumUs = sum(parts.map((part) => part.sumUs));
      return [opcode, whole(rate), timed === 0 ? '-' : duration(sumUs / timed), quantile(buckets, 0.99)];
    });
}

function processLines(
  { pid, time, started, residentBytes, heapUsedBytes }: DaemonStatus,
  extra = '',
): string[] {
  const words = [
    `process ${pid}`,
    `up ${age(time - started)}`,
    `${bytes(residentBytes)} resident (heap ${bytes(heapUsedBytes)})`,
    ...(extra === '' ? [] : [extra]),
  ];
  return [words.join(', ')];
}

/** One export: who uses it, what went wrong, what its backend says. */
function details(one: ExportStatus): string[] {
  const lines = ['', `${one.tag} (${one.backend})${one.isUp ? '' : ': DOWN'}`];
  if (one.detail !== '') lines.push(`  ${one.detail}`);
  for (const { id, isMounted, handles, inFlight, locks, waitingLocks } of one.guests) {
    const state = isMounted ? 'mounted' : 'connected, not mounted';
    lines.push(
      `  guest ${id}: ${state}, ${handles} open, ${inFlight} in flight, ${locks} locks, ${waitingLocks} waiting`,
    );
  }
  const errors = Object.entries(one.errors).toSorted(([, a], [, b]) => b - a);
  if (errors.length > 0)
    lines.push(`  errors: ${errors.map(([name, value]) => `${name} ${whole(value)}`).join(', ')}`);
  if (one.readBytes + one.writtenBytes > 0)
    lines.push(`  content: ${bytes(one.readBytes)} read, ${bytes(one.writtenBytes)} written`);
  if (one.busiestFiles.length > 0)
    lines.push(`  busiest files: ${one.busiestFiles.slice(0, MOST_BUSY).map(fileText).join(', ')}`);
  if (one.busiestProcesses.length > 0)
    lines.push(
      `  busiest processes: ${one.busiestProcesses.slice(0, MOST_BUSY).map(processText).join(', ')}`,
    );
  if (one.space !== undefined && one.space.bytes > 0)
    lines.push(`  space: ${bytes(one.space.freeBytes)} of ${bytes(one.space.bytes)} free`);
  for (const slow of slowOpcodes(undefined, one)) lines.push(`  slow: ${slowText(slow)}`);
  if (one.heldBackBefore > 0)
    lines.push(
      `  held back by its rate: ${whole(one.heldBack)} requests now, ${whole(one.heldBackBefore)} since the start`,
    );
  if (one.lostLocks > 0)
    lines.push(`  locks lost: ${whole(one.lostLocks)} (EIO until their files are closed)`);
  for (const { name, value } of one.figures) lines.push(`  ${name}: ${value.toLocaleString('en')}`);
  lines.push(...one.lockWaits.map(waitLine));
  return lines;
}

/** What somebody should look at. */
function troubles(old: ExportStatus | undefined, one: ExportStatus): string[] {
  const lines: string[] = [];
  if (!one.isUp) lines.push(`${one.tag}: DOWN${one.detail === '' ? '' : `: ${one.detail}`}`);
  if (one.longestWaitSeconds > LONG_SECONDS)
    lines.push(`${one.tag}: a request has waited for the backend for ${age(one.longestWaitSeconds)}`);
  if (one.space !== undefined && one.space.freeBytes < one.space.bytes * LEAST_FREE)
    lines.push(`${one.tag}: ${bytes(one.space.freeBytes)} of ${bytes(one.space.bytes)} free`);
  for (const slow of slowOpcodes(old, one)) lines.push(`${one.tag}: ${slowText(slow)}`);
  if (one.heldBack > 0) lines.push(`${one.tag}: ${whole(one.heldBack)} requests are held back by its rate`);
  lines.push(...one.lockWaits.map((wait) => `${one.tag}:${waitLine(wait)}`));
  return lines.length === 0 ? [] : ['', ...lines];
}

/** Who waits for which lock, and who has one that is in the way. */
export function waitLine({
  ino,
  kind,
  wanted,
  start,
  end,
  guest,
  pid,
  heldByGuest,
  heldByPid,
}: LockWait): string {
  const file = ino === undefined ? 'a file' : `inode ${ino}`;
  const range = kind === 'flock' ? 'flock' : `bytes ${start} to ${end}`;
  return (
    `  guest ${guest}, process ${pid} waits for a ${wanted} lock on ${file} (${range}); ` +
    `guest ${heldByGuest}, process ${heldByPid} has one`
  );
}

/** Columns side by side: the first to the left, the others to the right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd(),
  );
}

function total(counts: Readonly<Record<string, number>>): number {
  return sum(Object.values(counts));
}

function sumOf(all: readonly (readonly number[])[]): number[] {
  const length = Math.max(0, ...all.map((each) => each.length));
  return Array.from({ length }, (_, index) => sum(all.map((each) => each[index] ?? 0)));
}

/** The bound within which a share of the timed requests were answered. */
function quantile(buckets: readonly number[], share: number): string {
  const timed = sum(buckets);
  if (timed === 0) return '-';
  let seen = 0;
  for (let bucket = 0; bucket < LATENCY_BUCKETS - 1; bucket++) {
    seen += buckets[bucket] ?? 0;
    if (seen >= timed * share) return duration(LATENCY_BOUNDS_US[bucket]!);
  }
  return `> ${duration(LATENCY_BOUNDS_US.at(-1)!)}`;
}

function duration(microseconds: number): string {
  if (microseconds < 1000) return `${microseconds < 10 ? round(microseconds) : Math.round(microseconds)} µs`;
  if (microseconds < 1e6) return `${round(microseconds / 1000)} ms`;
  return `${round(microseconds / 1e6)} s`;
}

function round(value: number): string {
  return `${Math.round(value * 10) / 10}`;
}

export function whole(value: number): string {
  return value > 0 && value < 10 && !Number.isInteger(value)
    ? value.toFixed(1)
    : Math.round(value).toLocaleString('en');
}

function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : round(value)} ${units[unit]!}`;
}

function age(seconds: number): string {
  const all = Math.max(0, Math.floor(seconds));
  const [days, hours, minutes] = [
    Math.floor(all / 86_400),
    Math.floor(all / 3600) % 24,
    Math.floor(all / 60) % 60,
  ];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${all % 60} s` : `${all} s`;
}
