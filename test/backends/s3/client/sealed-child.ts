import { Duplex } from 'node:stream';
import { Client } from 'undici';
import { connectionsTo } from '../../../../backends/s3/client/connections.js';
import { compileParser } from '../../../../backends/s3/client/parser.js';
import { sealSystemCalls } from '../../../../core/system/confinement/seccomp.js';
import { threadsStarted } from '../../../../core/system/started-threads.js';

/*
 * For parser.test.ts: seals this process as a daemon that has started is, and talks by HTTP to the
 * server whose address is the argument.
 */

/** Requests, so many that the engine takes all that they call for often used. */
const ROUNDS = 1500;
const BROKEN = [
  'no answer\r\n\r\n',
  'HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n',
  'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
  'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n',
  'HTTP/1.1 101 Other\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n',
  'HTTP/1.0 200\r\n\r\nto the end',
];

/** A server that gives one answer, and goes. */
class Answering extends Duplex {
  readonly #answer: string;

  constructor(answer: string) {
    super();
    this.#answer = answer;
  }

  override _read(): void {
    // The answer is pushed.
  }

  override _write(_request: unknown, _encoding: unknown, done: () => void): void {
    this.push(this.#answer);
    this.push(null);
    done();
  }
}

await compileParser();
await threadsStarted();
const code = sealSystemCalls('errno', { network: true, machineCode: false, listens: false });
if (code < 0) {
  console.log(`no filters: ${code}`);
  process.exit(0);
}
const connections = connectionsTo(process.argv[2]!, 4);
const request = async (method: 'GET' | 'HEAD' | 'PUT'): Promise<void> => {
  const body = method === 'PUT' ? 'content' : null;
  const answer = await connections.request({ origin: process.argv[2]!, path: '/', method, body });
  await answer.body.text();
};
for (let i = 0; i < ROUNDS; i++)
  await Promise.all([request('PUT'), request('GET'), request('HEAD'), request('PUT')]);
for (const answer of BROKEN) {
  const client = new Client('http://localhost', {
    connect: (_options, connected) => setImmediate(() => connected(null, new Answering(answer) as never)),
  });
  await client.request({ path: '/', method: 'GET' }).then(
    ({ body }) => body.text().catch(() => undefined),
    () => undefined,
  );
  await client.destroy();
}
console.log('served');
process.exit(0);
