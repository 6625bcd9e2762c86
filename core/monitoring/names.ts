import { Errno } from '../backend/index.js';
import { Opcode } from '../fuse/index.js';

const opcodes = new Map<number, string>(Object.entries(Opcode).map(([name, value]) => [value, name]));
const errors = new Map<number, string>(Object.entries(Errno).map(([name, value]) => [value, name]));

/** `GETATTR` for 3; `unknown` for opcodes that FUSE does not have. */
export function opcodeName(opcode: number): string {
  return opcodes.get(opcode) ?? 'unknown';
}

/** `ENOENT` for 2; `errno 42` for one without a name here. */
export function errorName(errno: number): string {
  return errors.get(errno) ?? `errno ${errno}`;
}
