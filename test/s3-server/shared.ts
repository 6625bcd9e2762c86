import { spawn } from 'node:child_process';
import { open, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { cacheFolder } from './cache.js';
import { ACCESS_KEY, SECRET_KEY } from './radosgw.js';

const state = cacheFolder('s3-server');

/**
 * The S3 server that all test processes of a run share: started by the first that asks, and ended
 * by itself when they are gone. Puts its keys into the environment, where the SDK's credential
 * chain finds them. With `S3_TEST_ENDPOINT` another server, with credentials of the environment.
 * @returns the endpoint's URL.
 */
export async function sharedServer(): Promise<string> {
  const given = process.env['S3_TEST_ENDPOINT'];
  if (given !== undefined) return given;
  process.env['AWS_ACCESS_KEY_ID'] = ACCESS_KEY;
  process.env['AWS_SECRET_ACCESS_KEY'] = SECRET_KEY;
  process.env['AWS_REGION'] = 'us-east-1';
  await mkdir(join(state, 'users'), { recursive: true });
  await writeFile(join(state, 'users', String(process.pid)), '');
  const deadline = Date.now() + 240_000;
  while (Date.now() < deadline) {
    const endpoint = await running();
    if (endpoint !== undefined) return endpoint;
    if (await claimStart()) {
      const log = await open(join(state, 'server.log'), 'w');
      const main = fileURLToPath(new URL('./main.js', import.meta.url));
      const child = spawn(process.execPath, [main, '--state', state], {
        detached: true,
        stdio: ['ignore', log.fd, log.fd],
      });
      child.unref();
      await log.close();
    }
    await sleep(100);
  }
  throw new Error(`the S3 server did not start; see ${join(state, 'server.log')}`);
}

async function running(): Promise<string | undefined> {
  try {
    const text = await readFile(join(state, 'server.json'), 'utf8');
    const { endpoint, pid } = JSON.parse(text) as { endpoint: string; pid: number };
    process.kill(pid, 0);
    await rm(join(state, 'starting'), { force: true });
    return endpoint;
  } catch {
    return undefined;
  }
}

/**
 * One process claims the start of the server. Others may claim it again after 60 seconds without a
 * server.
 */
async function claimStart(): Promise<boolean> {
  const claim = join(state, 'starting');
  try {
    await writeFile(claim, '', { flag: 'wx' });
    return true;
  } catch {
    const age = await stat(claim).then(
      (found) => Date.now() - found.mtimeMs,
      () => 0,
    );
    if (age > 60_000) await rm(claim, { force: true });
    return false;
  }
}
