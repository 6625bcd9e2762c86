import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, describe, it } from 'node:test';
import { machineNeeds } from '../../../../backends/s3/service/machine-needs.js';
import { optionsSchema } from '../../../../backends/s3/options.js';
import { landlockVersion } from '../../../../core/system/confinement/landlock.js';
import { ACCESS_KEY, SECRET_KEY } from '../../../s3-server/radosgw.js';
import { FrontEnd } from '../../../support/front-end.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { program } from '../../../support/program.js';
import { fuseTransport } from '../../../support/vhost-user.js';
import { removeFolders, temporaryFolder, TestBucket } from '../support.js';

const withLandlock = landlockVersion() > 0;

/**
 * Serves a bucket, confined, with what this home folder says of credentials.
 * @returns what it logged until it served.
 */
async function serve(bucket: TestBucket, home: string, profile: string): Promise<Record<string, unknown>[]> {
  const words = ['serve', '--backend', 's3', '--bucket', bucket.name, '--endpoint', bucket.endpoint];
  words.push('--path-style', '--profile', profile, '--cache-dir', join(home, 'cache'));
  words.push('--socket-path', join(home, 'socket'), '--log-format', 'json');
  const environment = Object.entries(process.env).filter(([name]) => !name.startsWith('AWS_'));
  const child = spawn(process.execPath, [program, ...words], {
    env: { ...Object.fromEntries(environment), HOME: home },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 60_000,
  });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  const said: Record<string, unknown>[] = [];
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      said.push(line.startsWith('{') ? (JSON.parse(line) as Record<string, unknown>) : { line });
      if (said.at(-1)!['msg'] === 'serving') child.kill();
    });
  }
  assert.equal(await ended, 0, JSON.stringify(said));
  return said;
}

describe('a confined daemon that serves a bucket', () => {
  after(removeFolders);

  it('reaches its cache folder and the configuration of the SDK, and needs no capabilities', async () => {
    const home = await temporaryFolder();
    await mkdir(join(home, '.aws'));
    await writeFile(
      join(home, '.aws', 'credentials'),
      `[keys]\naws_access_key_id = ${ACCESS_KEY}\naws_secret_access_key = ${SECRET_KEY}\n`,
    );
    const said = await serve(await TestBucket.create(), home, 'keys');
    const confined = said.find(({ msg }) => msg === 'confined');
    if (withLandlock) assert.match(String(confined?.['landlock']), /^version/);
    assert.match(String(confined?.['capabilities']), /^none/);
    assert.equal(confined?.['seccomp'], 'errno');
  });

  it('is mounted anew, on the same socket and cache folder, when its configuration has it again', async () => {
    const [home, bucket] = [await temporaryFolder(), await TestBucket.create()];
    const [file, socket] = [join(home, 'config.yaml'), join(home, 'sockets', 'bucket')];
    await mkdir(join(home, 'sockets'));
    const { name, endpoint } = bucket;
    const backend = { type: 's3', bucket: name, endpoint, pathStyle: true, cacheDir: join(home, 'cache') };
    const other = { tag: 'other', socket: join(home, 'sockets', 'other'), backend: { type: 'memfs' } };
    const configure = (...exports: object[]): Promise<void> =>
      writeFile(file, JSON.stringify({ exports: [...exports, other] }));
    await configure({ tag: 'bucket', socket, backend });
    const child = spawn(
      process.execPath,
      [program, 'serve', '--config', file, '--log-format', 'json', '--log-level', 'debug'],
      {
        env: { ...process.env, AWS_ACCESS_KEY_ID: ACCESS_KEY, AWS_SECRET_ACCESS_KEY: SECRET_KEY, HOME: home },
        stdio: ['ignore', 'ignore', 'pipe'],
        timeout: 120_000,
      },
    );
    const ended = new Promise((resolve) => child.once('exit', (...how) => resolve(how)));
    const lines = createInterface({ input: child.stderr })[Symbol.asyncIterator]();
    const said: string[] = [];
    const logged = async (text: string): Promise<void> => {
      for (;;) {
        const { value, done } = await lines.next();
        assert.ok(done !== true, `it ended before ${text}: ${said.join('\n')}`);
        said.push(value);
        if (value.includes(text)) return;
      }
    };
    await logged('"sealed"');
    for (const round of [1, 2]) {
      await configure();
      child.kill('SIGHUP');
      await logged('"reloaded"');
      await configure({ tag: 'bucket', socket, backend });
      child.kill('SIGHUP');
      await logged('"reloaded"');
      const frontEnd = await FrontEnd.connect(socket);
      const fuse = new FuseClient(fuseTransport(frontEnd));
      await fuse.init();
      await fuse.mkdir(ROOT, `made${round}`);
      await frontEnd.close();
    }
    child.kill();
    assert.deepEqual(await ended, [0, null]);
  });

  it('may run the program that its profile names for credentials', async () => {
    const home = await temporaryFolder();
    await mkdir(join(home, '.aws'));
    const keys = { Version: 1, AccessKeyId: ACCESS_KEY, SecretAccessKey: SECRET_KEY };
    await writeFile(join(home, 'helper'), `echo '${JSON.stringify(keys)}'\n`);
    await writeFile(
      join(home, '.aws', 'config'),
      `[profile helped]\ncredential_process = /bin/sh ${join(home, 'helper')}\n`,
    );
    const said = await serve(await TestBucket.create(), home, 'helped');
    const confined = said.find(({ msg }) => msg === 'confined');
    assert.equal(confined?.['programs'], 'allowed');
    assert.equal(confined?.['seccomp'], 'errno');
  });

  it('runs programs only for the profile that is used, or one that it builds upon', async () => {
    const folder = await temporaryFolder();
    const file = join(folder, 'config');
    await writeFile(
      file,
      '[default]\nregion = x\n[profile base]\ncredential_process = helper\n[profile top]\nsource_profile = base\n' +
        '[profile loop]\nsource_profile = loop\n',
    );
    const none = join(folder, 'none');
    const uses = (profile: string | undefined, more: NodeJS.ProcessEnv = {}): boolean | undefined => {
      const options = optionsSchema.parse({ bucket: 'b', cacheDir: folder, profile });
      const environment = { AWS_CONFIG_FILE: file, AWS_SHARED_CREDENTIALS_FILE: none, ...more };
      return machineNeeds(options, environment).programs;
    };
    assert.deepEqual(
      ['base', 'top', 'loop', 'missing', undefined].map((profile) => uses(profile)),
      [true, true, false, false, false],
    );
    assert.equal(uses(undefined, { AWS_PROFILE: 'top' }), true);
    assert.equal(uses(undefined, { AWS_ACCESS_KEY_ID: 'key' }), false);
  });
});
