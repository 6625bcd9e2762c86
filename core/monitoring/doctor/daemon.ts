import { LEAST_FREE } from '../status.js';
import type { DaemonStatus, ExportStatus } from '../status-json.js';
import { slowOpcodes, slowText } from '../slow-opcodes.js';
import { waitLine, whole } from '../status-text.js';
import { sum } from '../sum.js';
import type { Finding } from './finding.js';

/** A request that waits for longer than this hangs, in seconds. */
const HANGS_SECONDS = 5;
/** A lock that is waited for longer than this is stuck, in seconds. */
const STUCK_SECONDS = 30;
/** Errors that programs expect, and make on purpose. */
const EVERYDAY = new Set([
  'ENOENT',
  'ENODATA',
  'EEXIST',
  'EAGAIN',
  'ENOSYS',
  'EOPNOTSUPP',
  'ENOTEMPTY',
  'ERANGE',
  'EINTR',
  'EACCES',
  'EPERM',
  'EROFS',
]);
/** Errors that are told by themselves. */
const TOLD = new Set(['EIO', 'ENOSPC', 'EDQUOT']);
/** Share of requests with other errors that is much. */
const MANY_ERRORS = 0.05;

/**
 * What is wrong with a daemon, or good to know.
 * @param before an earlier look at the same daemon.
 */
export function judgeDaemon(before: DaemonStatus, now: DaemonStatus): Finding[] {
  const findings: Finding[] = [];
  if (now.lostLogLines > 0) {
    findings.push({
      level: 'warning',
      about: 'log',
      text: `${now.lostLogLines} lines were lost, for nobody took them`,
      advice: 'Look at what reads the standard error of the daemon, or at the disk that it goes to.',
    });
  }
  for (const one of now.exports) {
    const old = before.exports.find(({ tag }) => tag === one.tag);
    const own = judgeExport(old, one);
    if (own.length === 0) {
      const requests = sum(Object.values(one.requests));
      own.push({
        level: 'ok',
        about: `export ${one.tag}`,
        text: `${whole(requests)} requests, nothing conspicuous`,
      });
    }
    findings.push(...own);
  }
  return findings;
}

function judgeExport(old: ExportStatus | undefined, one: ExportStatus): Finding[] {
  const about = `export ${one.tag}`;
  return [
    ...backendFindings(one),
    ...lockFindings(one),
    ...spaceFindings(old, one),
    ...errorFindings(one),
    ...latencyFindings(old, one),
  ].map((finding) => ({ ...finding, about }));
}

type OfExport = Omit<Finding, 'about'>;

function backendFindings({
  isUp,
  detail,
  longestWaitSeconds,
  faults,
  malformed,
  inFlight,
}: ExportStatus): OfExport[] {
  const findings: OfExport[] = [];
  if (!isUp) {
    findings.push({
      level: 'problem',
      text: `its backend says that it cannot serve${detail === '' ? '' : `: ${detail}`}`,
      advice: 'Mend what it names; a backend that hangs waits for a disk or another machine.',
    });
  }
  if (longestWaitSeconds > HANGS_SECONDS) {
    findings.push({
      level: 'problem',
      text: `a request has waited for the backend for ${Math.round(longestWaitSeconds)} s (${inFlight} are in flight)`,
      advice: 'What the backend asks does not answer: look at its network, its disk, and dmesg of the host.',
    });
  }
  if (faults > 0) {
    findings.push({
      level: 'warning',
      text: `the backend has thrown ${faults} exceptions that were no errors of a file system; guests got EIO`,
      advice: 'The log has each with its stack: a mistake in the backend.',
    });
  }
  if (malformed > 0) {
    findings.push({
      level: 'warning',
      text: `${malformed} messages of guests could not be answered`,
      advice: 'A guest is broken or hostile; the log has its connection.',
    });
  }
  return findings;
}

function lockFindings({ lockWaits, waitingLocks, lostLocks }: ExportStatus): OfExport[] {
  const stuck = lockWaits.filter(({ seconds }) => seconds > STUCK_SECONDS);
  const findings: OfExport[] = stuck.map((wait) => ({
    level: 'problem',
    text: `for ${Math.round(wait.seconds)} s ${waitLine(wait).trim()}`,
    advice: `End process ${wait.heldByPid} in guest ${wait.heldByGuest}, or find out what it waits for. find DIR -inum ${wait.ino ?? 'INODE'} names the file.`,
  }));
  const [first] = lockWaits;
  if (stuck.length === 0 && first !== undefined) {
    const others = waitingLocks > 1 ? ` (and ${waitingLocks - 1} more)` : '';
    findings.push({
      level: 'note',
      text: `for ${Math.round(first.seconds)} s ${waitLine(first).trim()}${others}`,
    });
  }
  if (lostLocks > 0) {
    findings.push({
      level: 'problem',
      text: `${lostLocks} locks were lost in a restart or move; their files give EIO`,
      advice: 'Have the programs that use these files close and open them again.',
    });
  }
  return findings;
}

function spaceFindings(old: ExportStatus | undefined, { space, errors }: ExportStatus): OfExport[] {
  const findings: OfExport[] = [];
  for (const name of ['ENOSPC', 'EDQUOT'] as const) {
    const count = errors[name] ?? 0;
    if (count === 0) continue;
    const isNew = count > (old?.errors[name] ?? 0);
    findings.push({
      level: isNew ? 'problem' : 'warning',
      text: `guests were told ${name} ${whole(count)} times${isNew ? ', and still are' : ''}`,
      advice:
        name === 'EDQUOT'
          ? 'A quota is used up: raise it, or delete something.'
          : 'The file system is full, or a limit of the export: delete something, or make it larger.',
    });
  }
  if (space === undefined) return findings;
  if (space.bytes > 0 && space.freeBytes / space.bytes < LEAST_FREE)
    findings.push({
      level: 'warning',
      text: `${percent(space.freeBytes / space.bytes)} of its space is free`,
      advice: 'Delete something, or make it larger, before guests are told ENOSPC.',
    });
  if (space.files > 0 && space.freeFiles / space.files < LEAST_FREE)
    findings.push({
      level: 'warning',
      text: `${percent(space.freeFiles / space.files)} of its inodes are free`,
      advice: 'Delete files, or make the file system anew with more inodes.',
    });
  return findings;
}

function errorFindings({ requests, errors }: ExportStatus): OfExport[] {
  const findings: OfExport[] = [];
  const eio = errors['EIO'] ?? 0;
  if (eio > 0) {
    findings.push({
      level: 'problem',
      text: `guests were told EIO ${whole(eio)} times`,
      advice:
        'A disk, a network, or the backend fails: look at the log, and at dmesg. virtiofs-kit trace --errors shows which files.',
    });
  }
  const all = sum(Object.values(requests));
  const odd = Object.entries(errors).filter(([name]) => !EVERYDAY.has(name) && !TOLD.has(name));
  const count = sum(odd.map(([, each]) => each));
  if (count > 100 && count > all * MANY_ERRORS) {
    const names = odd.toSorted(([, a], [, b]) => b - a).map(([name, each]) => `${name} ${each}`);
    findings.push({
      level: 'warning',
      text: `${percent(count / all)} of requests fail: ${names.slice(0, 5).join(', ')}`,
      advice: 'virtiofs-kit trace --errors shows which, and who asks.',
    });
  }
  return findings;
}

function latencyFindings(old: ExportStatus | undefined, one: ExportStatus): OfExport[] {
  return slowOpcodes(old, one).map((slow) => ({
    level: 'warning',
    text: slowText(slow),
    advice:
      'The disk or the network behind it is slow: look at iostat -x 1 of the host, and at who else uses it.',
  }));
}

function percent(share: number): string {
  return `${(share * 100).toFixed(1)}%`;
}
