import { once } from 'node:events';
import { createServer } from 'node:net';
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
const close = library.func('int close(int)') as unknown as (fd: number) => number;

const AF_UNIX = 1;
const SOCK_DGRAM = 2;
const SOCK_CLOEXEC = 0o2000000;

/** @param path `@` at its start stands for the byte 0 of an abstract address. */
function listenForDatagrams(t: TestContext, path: string): void {
  // Not for the daemons that this process starts.
  const fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  t.after(() => close(fd));
  const address = Buffer.concat([Buffer.from([AF_UNIX, 0]), Buffer.from(path.replace(/^@/, '\0'))]);
  if (bind(fd, address, address.length) !== 0) throw new Error(`bind ${path}: errno ${koffi.errno()}`);
}

/**
 * Listens on a path and on an abstract address, for connections and for datagrams.
 * @returns the addresses, with `@` in the place of the byte 0.
 */
export async function unixPeers(t: TestContext, folder: string): Promise<string[]> {
  const [stream, datagrams] = [join(folder, 'stream'), join(folder, 'datagrams')];
  const addresses = [stream, `@${stream}`, datagrams, `@${datagrams}`];
  for (const path of addresses.slice(0, 2)) {
    const server = createServer((connection) => connection.on('error', () => undefined));
    t.after(() => server.close());
    await once(server.listen(path.replace(/^@/, '\0')), 'listening');
  }
  for (const path of addresses.slice(2)) listenForDatagrams(t, path);
  return addresses;
}
