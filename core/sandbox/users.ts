import { UsageError } from '../backend/index.js';
import type { HostFiles } from '../../backends/overlay/index.js';

/** A user of a sandbox. */
export interface User {
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

/** Longer files are not searched: an image's may be of any size. */
const MAX_BYTES = 1 << 20;

/**
 * Finds a user in a sandbox's own `/etc/passwd` and `/etc/group`.
 * @param user `NAME`, `UID`, `NAME:GROUP` or `UID:GID`.
 * @throws UsageError for a name that is not there.
 */
export async function findUser(files: HostFiles, user: string): Promise<User> {
  const [name = '', group] = user.split(':');
  const passwd = await fieldsOf(files, '/etc/passwd');
  const line = passwd.find((fields) => fields[0] === name) ?? passwd.find((fields) => fields[2] === name);
  const uid = numberOf(line?.[2] ?? name);
  if (uid === undefined) throw new UsageError(`user ${user}: the sandbox has no user ${name}`);
  const home = line?.[5];
  const gid = group === undefined ? numberOf(line?.[3] ?? '0') : await findGroup(files, user, group);
  return { uid, gid: gid ?? 0, home: home === undefined || home === '' ? '/' : home };
}

async function findGroup(files: HostFiles, user: string, group: string): Promise<number> {
  const line = (await fieldsOf(files, '/etc/group')).find((fields) => fields[0] === group);
  const gid = numberOf(line?.[2] ?? group);
  if (gid === undefined) throw new UsageError(`user ${user}: the sandbox has no group ${group}`);
  return gid;
}

/** The lines of a file whose fields are separated by colons; none if there is no such file. */
export async function fieldsOf(files: HostFiles, path: string): Promise<string[][]> {
  try {
    const text = (await files.readFile(path, MAX_BYTES)).toString();
    return text.split('\n').map((line) => line.split(':'));
  } catch {
    return [];
  }
}

/** A user's or group's number, 0 to 2^32-2. */
function numberOf(text: string): number | undefined {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Infinity;
  return value < 0xffffffff ? value : undefined;
}
