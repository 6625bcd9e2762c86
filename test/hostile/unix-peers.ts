import { join } from 'node:path';
import type { TestContext } from 'node:test';
import koffi from 'koffi';

/* Sockets of a process of the host that have nothing to do with a daemon. */

const library = koffi.load(null);
const socket = library.func('int socket(int, int, int)') as unknown as (...given: number[]) => number;
const bind = library.func('int bind(int, const uint8_t *, uint)') as unknown as (
  fd: number,
  address: Uint8Array,
  length: number,
) => number;
const listen = library.func('int listen(int, int)') as unknown as (fd: number, backlog: number) => number;
const close = library.func('int close(int)') as unknown as (fd: number) => number;

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;

/** @param path `@` at its start stands for the byte 0 of an abstract address. */
function open(t: TestContext, type: number, path: string): void {
  // Not for the daemons that this process starts.
  const fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  t.after(() => close(fd));
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(path.replace(/^@/, '\0'))]);
  const isThere = bind(fd, address, address.length) === 0;
  // Nobody accepts: whoever connects waits in the backlog.
  if (!isThere || (type === SOCK_STREAM && listen(fd, 4096) !== 0))
    throw new Error(`${path}: errno ${koffi.errno()}`);
}

/**
 * Listens on a path and on an abstract address, for connections and for datagrams.
 * @returns the addresses, with `@` in the place of the byte 0.
 */
export function unixPeers(t: TestContext, folder: string): string[] {
  const [stream, datagrams] = [join(folder, 'stream'), join(folder, 'datagrams')];
  for (const path of [stream, `@${stream}`]) open(t, SOCK_STREAM, path);
  for (const path of [datagrams, `@${datagrams}`]) open(t, SOCK_DGRAM, path);
  return [stream, `@${stream}`, datagrams, `@${datagrams}`];
}
