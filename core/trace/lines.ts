import { nameBytes } from '../backend/index.js';
import { errorName, opcodeName } from '../monitoring/names.js';
import type { TracedRequest } from './reader.js';

/**
 * A request in one line: `2026-11-29T18:02:11.123456Z data guest=1 uid=0 gid=0 pid=421 WRITE
 * /a/file offset=0 size=4096 = 4096 12.5us`.
 */
export function requestLine(one: TracedRequest): string {
  const { tag, guest, uid, gid, pid, opcode, path, target, fields, duration } = one;
  const words = [timeOf(one.time), word(tag), `guest=${guest}`, `uid=${uid}`, `gid=${gid}`, `pid=${pid}`];
  words.push(opcodeName(opcode), word(path));
  if (target !== undefined) words.push('->', word(target));
  for (const [name, value] of fields)
    words.push(`${name}=${typeof value === 'string' ? word(value) : value}`);
  words.push('=', outcome(one), `${duration < 1000 ? duration.toFixed(1) : Math.round(duration)}us`);
  return words.join(' ');
}

/** A request as JSON, for programs. */
export function requestJson(one: TracedRequest): string {
  const { time, tag, guest, uid, gid, pid, opcode, node, path, target, fields, bytes, duration } = one;
  const shown = {
    time: timeOf(time),
    export: tag,
    guest,
    uid,
    gid,
    pid,
    opcode: opcodeName(opcode),
    node: `${node}`,
    path,
    target,
    arguments: Object.fromEntries(
      fields.map(([name, value]) => [name, typeof value === 'bigint' ? `${value}` : value]),
    ),
    result: one.errno === 0 ? 'ok' : errorName(one.errno),
    isMissing: one.isMissing,
    bytes,
    microseconds: Math.round(duration * 10) / 10,
  };
  return JSON.stringify(shown);
}

/** Says in a log that requests are missing. */
export function lostRequestsLine(count: number): string {
  return `# ${count} requests are missing: nobody took them in time`;
}

function outcome({ errno, isMissing, bytes }: TracedRequest): string {
  if (errno !== 0) return errorName(errno).replace(' ', '-');
  if (isMissing) return 'missing';
  return bytes === undefined ? 'ok' : `${bytes}`;
}

function timeOf(microseconds: number): string {
  const whole = Math.floor(microseconds / 1000);
  if (!(Math.abs(whole) < 8.64e15)) return 'no-time';
  const rest = `${Math.floor(microseconds) % 1000}`.padStart(3, '0');
  return new Date(whole).toISOString().replace('Z', `${rest}Z`);
}

/**
 * What a guest has named, as one word of printable characters: a backslash and what would end a
 * word or line, or be obeyed by a terminal, is `\xNN` for each of its bytes.
 */
export function word(text: string): string {
  if (text === '') return '""';
  return text.replaceAll(UNPRINTABLE, (character) =>
    [...nameBytes(character)].map((byte) => `\\x${byte.toString(16).padStart(2, '0')}`).join(''),
  );
}

/** Spaces, controls, formats (among them those that turn the direction of text) and surrogates. */
const UNPRINTABLE = /[\\"\p{Z}\p{C}]/gu;
