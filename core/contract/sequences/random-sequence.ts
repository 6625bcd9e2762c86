import { Model } from './model.js';
import type { Operation } from './operation.js';

const NAMES = ['a', 'b', 'c'];
const SLOTS = 2;
/** Bytes within which files stay: several pages, and no multiple of one. */
const SIZES = 20_000;

/** Each kind as often as it stands here. */
const KINDS: readonly Operation['kind'][] = [
  ...(['create', 'create', 'create', 'mkdir', 'mkdir', 'write', 'write', 'write', 'truncate'] as const),
  ...(['read', 'list', 'unlink', 'rmdir', 'rename', 'rename', 'rename', 'link'] as const),
  ...(['open', 'writeOpen', 'readOpen', 'close'] as const),
];

/** A source of numbers that is the same for the same seed (mulberry32). */
function numbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/**
 * A sequence of so many operations, each of which can be tried where those before it went well; the
 * same for the same seed.
 */
export function randomSequence(seed: number, length: number): readonly Operation[] {
  const next = numbers(seed);
  const path = (): string => {
    const names = Array.from({ length: 1 + next(2) }, () => NAMES[next(NAMES.length)]!);
    return names.join('/');
  };
  const range = (): { offset: number; length: number; letter: string } => ({
    offset: next(3) === 0 ? 0 : next(SIZES),
    length: 1 + next(SIZES / 4),
    letter: String.fromCharCode(65 + next(26)),
  });
  const draw = (): Operation => {
    const kind = KINDS[next(KINDS.length)]!;
    switch (kind) {
      case 'rename':
      case 'link':
        return { kind, path: path(), to: path() };
      case 'truncate':
        return { kind, path: path(), size: next(SIZES) };
      case 'write':
        return { kind, path: path(), ...range() };
      case 'list':
        return { kind, path: next(2) === 0 ? '' : path() };
      case 'open':
        return { kind, path: path(), slot: next(SLOTS) };
      case 'close':
      case 'readOpen':
        return { kind, slot: next(SLOTS) };
      case 'writeOpen':
        return { kind, slot: next(SLOTS), ...range() };
      default:
        return { kind, path: path() };
    }
  };
  const model = new Model();
  const sequence: Operation[] = [];
  while (sequence.length < length) {
    const operation = draw();
    if (model.apply(operation) !== 'not tried') sequence.push(operation);
  }
  return sequence;
}
