/**
 * Writes to a mounted bucket and prints each acknowledged write, until it is killed. See
 * `writable-backend.crash.s3.test.ts`.
 */
import { Mount, pattern, TestBucket } from './support.js';

const [name = '', endpoint = '', cacheDir = '', scenario = ''] = process.argv.slice(2);
const bucket = TestBucket.open(name, endpoint);
const say = (line: string): void => void process.stdout.write(`${line}\n`);

if (scenario === 'write') {
  const mount = await Mount.open(bucket, { cacheDir, writebackDelay: 600, maxDirtyAge: 600 });
  for (let i = 0; ; i++) {
    const path = `file${i}`;
    const length = 1 + ((i * 7919) % 200_000);
    const bytes = pattern(length, i);
    const file = await mount.create(path);
    for (let at = 0; at < length; at += 65_536) await mount.write(file, at, bytes.subarray(at, at + 65_536));
    await mount.release(file);
    say(`${path} ${i} ${length}`);
  }
} else {
  const mount = await Mount.open(bucket, { cacheDir, partSize: '5m', maxDirtyAge: 600 });
  const file = await mount.create('large');
  for (let i = 0; ; i++) {
    await mount.write(file, i * 2 ** 20, pattern(2 ** 20, i));
    // Waits until parts under way have been uploaded, so that the crash leaves something behind.
    if (i === 16)
      while (mount.requests('UploadPart') < 3) await new Promise((resolve) => setTimeout(resolve, 20));
    say(String(i));
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
