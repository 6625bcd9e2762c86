import { sep } from 'node:path';

/**
 * What a test needs, told by its path:
 *
 * - `unit`: nothing but Node. No root, no mount, no guest, no installed program, no server.
 * - `host`: root, `/dev/fuse`, file systems to mount, or programs that `.ci/setup test` installs.
 *   Named `*.host.test.ts`.
 * - `s3`: a server of the S3 protocol. Named `*.s3.test.ts`.
 * - `guest`: boots virtual machines. In `test/guest`, or named `*.guest.test.ts`.
 * - `hostile`: floods, races, full disks, small heaps: seconds each. In `test/hostile`.
 * - `fuzz`: masses of random input, for minutes. In `test/fuzz`.
 */
export const kinds = ['unit', 'host', 's3', 'hostile', 'fuzz', 'guest'] as const;

export type Kind = (typeof kinds)[number];

/** The kind of a test file, by its path below `test`. */
export function kindOf(file: string): Kind {
  const [folder] = file.split(sep);
  const word = /\.([a-z0-9]+)\.test\.[jt]s$/.exec(file)?.[1];
  const is = (kind: Kind): boolean => kind === folder || kind === word;
  return kinds.find(is) ?? 'unit';
}
