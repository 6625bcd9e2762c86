import { getSystemErrorName } from 'node:util';

/** A mount or unmount has failed. The text is for the operator. */
export class MountError extends Error {
  override readonly name = 'MountError';

  static of(what: string, errno: number): MountError {
    return new MountError(`${what}: ${getSystemErrorName(-errno)}`);
  }
}
