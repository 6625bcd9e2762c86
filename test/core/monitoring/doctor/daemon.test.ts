import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findingLines, judgeDaemon, type Finding } from '../../../../core/monitoring/doctor/index.js';
import { LATENCY_BOUNDS_US, LATENCY_BUCKETS } from '../../../../core/fuse/index.js';
import type { DaemonStatus } from '../../../../core/monitoring/index.js';

type ExportStatus = DaemonStatus['exports'][number];

const QUIET: ExportStatus = {
  tag: 'data',
  backend: 'passthrough',
  isUp: true,
  detail: '',
  started: 0,
  nodes: 1,
  handles: 0,
  inFlight: 0,
  heldBack: 0,
  heldBackBefore: 0,
  longestWaitSeconds: 0,
  locks: 0,
  waitingLocks: 0,
  lostLocks: 0,
  listingBytes: 0,
  faults: 0,
  malformed: 0,
  busiestFiles: [],
  busiestProcesses: [],
  space: { bytes: 1000, freeBytes: 500, files: 1000, freeFiles: 500 },
  guests: [],
  lockWaits: [],
  requests: { LOOKUP: 5000 },
  failures: { LOOKUP: 3000 },
  errors: { ENOENT: 3000 },
  readBytes: 0,
  writtenBytes: 0,
  latencies: {},
  figures: [],
};

function status(one: Partial<ExportStatus>, more: Partial<DaemonStatus> = {}): DaemonStatus {
  return {
    pid: 1,
    time: 2,
    started: 1,
    cpuSeconds: 0,
    residentBytes: 0,
    heapUsedBytes: 0,
    lostLogLines: 0,
    exports: [{ ...QUIET, ...one }],
    ...more,
  };
}

function found(one: Partial<ExportStatus>, before: Partial<ExportStatus> = {}): readonly Finding[] {
  return judgeDaemon(status(before), status(one));
}

/** Buckets with so many requests up to a bound. */
function timed(boundUs: number, count: number): { sumUs: number; buckets: number[] } {
  const buckets = Array.from({ length: LATENCY_BUCKETS }, () => 0);
  buckets[LATENCY_BOUNDS_US.indexOf(boundUs)] = count;
  return { sumUs: 0, buckets };
}

test('a daemon on which nothing is wrong is said to be well', () => {
  const [only, ...others] = found({});
  assert.deepEqual(others, []);
  assert.deepEqual(only, {
    level: 'ok',
    about: 'export data',
    text: '5,000 requests, nothing conspicuous',
  });
});

const lock = {
  ino: '77',
  kind: 'posix' as const,
  wanted: 'write' as const,
  start: '0',
  end: '9',
  guest: 2,
  pid: 42,
  heldByGuest: 1,
  heldByPid: 41,
};

const cases: readonly [
  name: string,
  now: Partial<ExportStatus>,
  level: Finding['level'],
  text: RegExp,
  before?: Partial<ExportStatus>,
][] = [
  [
    'a backend that is down',
    { isUp: false, detail: 'another writer won' },
    'problem',
    /cannot serve: another writer won/,
  ],
  [
    'a backend that hangs',
    { longestWaitSeconds: 61, inFlight: 3 },
    'problem',
    /for 61 s \(3 are in flight\)/,
  ],
  [
    'a stuck lock, and who has it',
    { waitingLocks: 1, lockWaits: [{ ...lock, seconds: 95 }] },
    'problem',
    /for 95 s guest 2, process 42 waits .* inode 77 .* guest 1, process 41 has one/,
  ],
  [
    'a lock that was just asked for',
    { waitingLocks: 1, lockWaits: [{ ...lock, seconds: 1 }] },
    'note',
    /for \d+ s guest \d+, process \d+ waits for a/,
  ],
  ['a full quota', { errors: { EDQUOT: 3 } }, 'problem', /EDQUOT 3 times, and still are/],
  ['one that was full', { errors: { ENOSPC: 3 } }, 'warning', /ENOSPC 3 times$/, { errors: { ENOSPC: 3 } }],
  [
    'one that is nearly full',
    { space: { bytes: 1000, freeBytes: 10, files: 0, freeFiles: 0 } },
    'warning',
    /1\.0% of its space/,
  ],
  [
    'one with few inodes left',
    { space: { bytes: 1000, freeBytes: 500, files: 1000, freeFiles: 1 } },
    'warning',
    /0\.1% of its inodes/,
  ],
  ['EIO', { errors: { EIO: 2 } }, 'problem', /EIO 2 times/],
  ['many errors', { errors: { ENOENT: 1, ESTALE: 400 } }, 'warning', /8\.0% of requests fail: ESTALE 400/],
  ['mistakes of the backend', { faults: 1 }, 'warning', /thrown 1 exceptions/],
  ['lost locks', { lostLocks: 1 }, 'problem', /1 locks were lost/],
  [
    'a slow disk',
    { latencies: { READ: timed(50_000, 100) } },
    'warning',
    /half of all READ take up to 50 ms just now/,
  ],
  [
    'a disk that was slow, where little happens now',
    { latencies: { FSYNC: timed(500_000, 100) } },
    'warning',
    /half of all FSYNC take up to 500 ms$/,
    { latencies: { FSYNC: timed(500_000, 95) } },
  ],
];

for (const [name, now, level, text, before] of cases) {
  test(`${name} is told`, () => {
    const findings = found(now, before);
    assert.equal(findings.length, 1, JSON.stringify(findings));
    assert.equal(findings[0]!.level, level);
    assert.match(findings[0]!.text, text);
  });
}

test('locks and flushes that take their time are no slow disk, nor is one slow request', () => {
  const latencies = { SETLKW: timed(5_000_000, 100), FSYNC: timed(50_000, 100), READ: timed(500_000, 3) };
  assert.deepEqual(
    found({ latencies }).map(({ level }) => level),
    ['ok'],
  );
});

test('lost lines of the log are told, and the worst comes first', () => {
  const findings = judgeDaemon(status({}), status({ errors: { EIO: 1 } }, { lostLogLines: 7 }));
  const lines = findingLines(findings);
  assert.match(lines[0]!, /^problem {2}export data: guests were told EIO/);
  assert.ok(lines.some((line) => /^warning {2}log: 7 lines were lost/.test(line)));
});
