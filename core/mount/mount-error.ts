import { getSystemErrorName } from 'node:util';

/** A mount or unmount that did not come about. The text is for the operator. */
export class MountError extends Error {
  override readonly name = 'MountError';

  static of(what: string, errno: number): MountError {
    return new MountError(`${what}: ${getSystemErrorName(-errno)}`);
  }
}
