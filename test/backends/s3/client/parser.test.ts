import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

const child = join(import.meta.dirname, 'sealed-child.js');

test('a process that gets no memory for machine code any more speaks HTTP', async (t) => {
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      response.write('in ');
      response.end('pieces');
    });
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const { stdout } = await promisify(execFile)(process.execPath, [child, `http://127.0.0.1:${port}`]);
  if (stdout.startsWith('no filters')) t.skip(stdout);
  else assert.equal(stdout, 'served\n');
});
