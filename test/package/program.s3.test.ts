import assert from 'node:assert/strict';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { removeFolders, TestBucket } from '../backends/s3/support.js';
import { serve } from '../support/confined-daemon.js';
import { temporaryFolder } from '../support/vhost-user.js';

after(removeFolders);

/** What is preloaded writes to a file, at the end, which of Node's modules were loaded. */
const PRELOADED = `process.on('exit', () =>
  require('node:fs').writeFileSync(process.env.LOADED, JSON.stringify(process.moduleLoadList)));`;

test('a bucket whose server and keys are named is served without the SDK, by compiled code that is kept', async (t) => {
  const { name, endpoint } = await TestBucket.create();
  /** @returns the parts that were loaded. */
  const parts = async (...more: string[]): Promise<string[]> => {
    const cache = temporaryFolder(t);
    const preloaded = join(cache, 'preloaded.cjs');
    writeFileSync(preloaded, PRELOADED);
    const backend = ['--backend', 's3', '--bucket', name, '--endpoint', endpoint, '--path-style', ...more];
    backend.push('--cache-dir', temporaryFolder(t));
    const environment = {
      NODE_COMPILE_CACHE: cache,
      NODE_OPTIONS: `--require ${preloaded}`,
      LOADED: join(cache, 'loaded.json'),
      // Certificates would be for TLS.
      AWS_CA_BUNDLE: '',
    };
    const words = ['--confine', 'none'];
    const { text, end } = await serve(t, cache, { environment, words, backend });
    assert.equal(await end(), 0, text);
    const loaded = JSON.parse(readFileSync(environment.LOADED, 'utf8')) as string[];
    const secure = loaded.filter((module) => /^NativeModule (?:https?|tls)$/.test(module));
    if (more.length === 0) assert.deepEqual(secure, []);
    const folder = readdirSync(cache).find((entry) => entry.startsWith('virtiofs-kit-'));
    return readdirSync(join(cache, folder!)).filter((file) => /^(?:s3-.*|sdk|undici)\.cjs$/.test(file));
  };
  assert.deepEqual(
    (await parts()).map((file) => file.replace(/-.*\./, '.')),
    ['s3.cjs'],
  );
  assert.ok((await parts('--requester-pays')).includes('sdk.cjs'));
});
