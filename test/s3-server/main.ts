/**
 * The S3 server for a newcomer and for the tests: `npm run s3` keeps it in the foreground until
 * interrupted. With `--state DIR` it serves test processes: it writes where it listens to
 * `DIR/server.json`, and ends by itself when none of the processes named in `DIR/users` has lived
 * for 15 seconds.
 */
import { mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { cacheFolder } from './cache.js';
import { ACCESS_KEY, freePort, Radosgw, SECRET_KEY, unpack } from './radosgw.js';

const IDLE_SECONDS = 15;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { state: { type: 'string' }, port: { type: 'string' }, root: { type: 'string' } },
  });
  const root = values.root ?? cacheFolder('radosgw');
  await unpack(root);
  const data = await mkdtemp(join(tmpdir(), 'radosgw-'));
  const port = values.port === undefined ? await freePort() : Number(values.port);
  const server = await Radosgw.start(root, data, port);
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop.abort());
  if (values.state === undefined) {
    process.stdout.write(
      `S3 at ${server.endpoint}; stop with Ctrl-C\n\n` +
        `  export AWS_ACCESS_KEY_ID=${ACCESS_KEY} AWS_SECRET_ACCESS_KEY=${SECRET_KEY} AWS_REGION=us-east-1\n` +
        `  virtiofs-kit mount DIR --backend s3 --bucket demo --create-bucket --endpoint ${server.endpoint} --path-style\n`,
    );
    while (!stop.signal.aborted) await sleep(200);
  } else {
    await announce(values.state, server.endpoint);
    for (let idle = 0; idle < IDLE_SECONDS && !stop.signal.aborted; idle++) {
      await sleep(1000);
      if (await inUse(values.state)) idle = -1;
    }
    await rm(join(values.state, 'server.json'), { force: true });
  }
  await server.stop();
}

async function announce(state: string, endpoint: string): Promise<void> {
  const partial = join(state, `server.${process.pid}`);
  await writeFile(partial, JSON.stringify({ endpoint, pid: process.pid }));
  await rename(partial, join(state, 'server.json'));
}

async function inUse(state: string): Promise<boolean> {
  let used = false;
  for (const name of await readdir(join(state, 'users'))) {
    try {
      process.kill(Number(name), 0);
      used = true;
    } catch {
      await rm(join(state, 'users', name), { force: true });
    }
  }
  return used;
}

try {
  await main();
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
