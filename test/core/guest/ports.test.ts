import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { passUntil } from '../../../core/guest/ports.js';
import { checkProperty } from '../../support/random.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-ports-'));
after(() => rmSync(folder, { recursive: true }));

/** Both ends of a connection, the first as a guest's port is: paused. */
async function pair(): Promise<[Socket, Socket]> {
  const path = join(folder, 'pair');
  const server = createServer({ pauseOnConnect: true }).listen(path);
  const other = connect(path);
  const [socket] = (await once(server, 'connection')) as [Socket];
  server.close();
  return [socket, other];
}

/** Takes what it gets slowly, to make the reader wait. */
class SlowSink extends Writable {
  readonly parts: Buffer[] = [];

  constructor() {
    super({ highWaterMark: 16 });
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.parts.push(chunk);
    setImmediate(done);
  }
}

test('output passes unchanged up to its token, however it is cut', async (t) => {
  const [socket, other] = await pair();
  const token = 'abcabd';
  // Pieces of the token look like its beginning, but are not.
  const bytes = fc.array(
    fc.constantFrom('abcabd'.slice(0, 5), 'abc', 'a', 'bd', '\0\xff', 'x'.repeat(70_000)),
    { maxLength: 6 },
  );
  await checkProperty(
    t,
    fc.asyncProperty(
      bytes,
      fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 5 }),
      async (parts, cuts) => {
        const sent = Buffer.from(parts.join('').replaceAll(token, ''), 'latin1');
        if (sent.includes(token)) return;
        const sink = new SlowSink();
        const passed = passUntil(socket, token, sink);
        let rest = Buffer.concat([sent, Buffer.from(token)]);
        for (const cut of cuts) {
          other.write(rest.subarray(0, cut));
          rest = rest.subarray(cut);
          await new Promise((resolve) => setImmediate(resolve));
        }
        other.write(rest);
        await passed;
        await new Promise<void>((resolve) => sink.end(() => resolve()));
        const got = Buffer.concat(sink.parts);
        const end = Buffer.concat([sent, Buffer.from(token)]).indexOf(token);
        assert.ok(got.equals(sent.subarray(0, end)));
      },
    ),
    { numRuns: 60 },
  );
  other.destroy();
});

test('output without its token passes too when the port closes', async () => {
  const [socket, other] = await pair();
  const sink = new SlowSink();
  const passed = passUntil(socket, 'token', sink);
  other.end('half of it: tok');
  await passed;
  await new Promise<void>((resolve) => sink.end(() => resolve()));
  assert.equal(Buffer.concat(sink.parts).toString(), 'half of it: tok');
});
