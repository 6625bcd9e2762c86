import { inspect, isDeepStrictEqual } from 'node:util';
import { type Errno, type ErrnoName, FsError } from '../backend/index.js';

/** The backend has broken a rule of the contract. */
export class ContractFailure extends Error {
  override readonly name = 'ContractFailure';
  readonly expected: string;
  readonly actual: string;

  constructor(what: string, expected: string, actual: string) {
    super(`${what}: expected ${expected}, got ${actual}`);
    this.expected = expected;
    this.actual = actual;
  }
}

/** The backend does not support what the case tests, and reports that with an allowed errno. */
export class NotSupported extends Error {
  override readonly name = 'NotSupported';
}

/**
 * Compares two values.
 * @throws ContractFailure unless they are equal. For long lists it shows the first difference.
 */
export function equal(actual: unknown, expected: unknown, what: string): void {
  if (isDeepStrictEqual(actual, expected)) return;
  if (isList(actual) && isList(expected) && Math.max(actual.length, expected.length) > 8) {
    const at = expected.findIndex((value, i) => !isDeepStrictEqual(value, actual[i]));
    const index = at < 0 ? expected.length : at;
    const part = (list: readonly unknown[]): string => (index < list.length ? show(list[index]) : 'nothing');
    throw new ContractFailure(`${what}, number ${index}`, part(expected), part(actual));
  }
  throw new ContractFailure(what, show(expected), show(actual));
}

function isList(value: unknown): value is readonly unknown[] {
  return Array.isArray(value);
}

/** Checks a condition. @throws ContractFailure unless it holds; the message shows `actual`. */
export function holds(
  condition: boolean,
  what: string,
  expected: string,
  actual: unknown,
): asserts condition {
  if (!condition) throw new ContractFailure(what, expected, show(actual));
}

/** Compares bytes. @throws ContractFailure with the place of the first difference. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  if (Buffer.compare(actual, expected) === 0) return;
  const length = Math.min(actual.length, expected.length);
  let at = 0;
  while (at < length && actual[at] === expected[at]) at += 1;
  const part = (bytes: Uint8Array): string =>
    `${bytes.length} bytes${at < bytes.length ? `, at ${at}: ${Buffer.from(bytes.subarray(at, at + 8)).toString('hex')}` : ''}`;
  throw new ContractFailure(what, part(expected), part(actual));
}

/**
 * Waits for an operation that must fail.
 * @throws ContractFailure unless it fails with one of these errnos.
 */
export async function fails(
  operation: Promise<unknown>,
  errnos: ErrnoName | readonly ErrnoName[],
  what: string,
): Promise<void> {
  const names: readonly string[] = typeof errnos === 'string' ? [errnos] : errnos;
  let result: unknown;
  try {
    result = await operation;
  } catch (error) {
    if (error instanceof FsError && names.includes(error.code)) return;
    if (error instanceof NotSupported) throw error;
    throw new ContractFailure(what, names.join(' or '), codeOf(error));
  }
  throw new ContractFailure(what, names.join(' or '), result === undefined ? 'success' : show(result));
}

/**
 * Waits for an operation. If it fails with one of these errnos, the case ends as not supported.
 */
export async function supported<T>(operation: Promise<T>, ...refusals: (keyof typeof Errno)[]): Promise<T> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof FsError && (refusals as string[]).includes(error.code))
      throw new NotSupported(error.code);
    throw error;
  }
}

/** Waits for an operation. @returns undefined if it fails with one of these errnos. */
export async function unless<T>(operation: Promise<T>, ...errnos: ErrnoName[]): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof FsError && (errnos as string[]).includes(error.code)) return undefined;
    throw error;
  }
}

function codeOf(error: unknown): string {
  return error instanceof FsError ? error.code : String(error);
}

function show(value: unknown): string {
  return inspect(value, {
    depth: 4,
    maxArrayLength: 30,
    maxStringLength: 300,
    breakLength: Infinity,
    sorted: true,
  });
}
