import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, describe, it, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { UsageError } from '../../../../core/backend/index.js';
import { Image } from '../../../../core/sandbox/image/image.js';
import { BlobCache } from '../../../../core/sandbox/image/registry/blob-cache.js';
import { pushImage } from '../../../../core/sandbox/image/registry/push.js';
import { referenceOf } from '../../../../core/sandbox/image/registry/reference.js';
import { filesOf, layout, sha256, tar } from '../../../support/images.js';
import {
  basicAuth,
  type Certificate,
  certificateFor,
  hasNoRegistry,
  IDENTITY_TOKEN,
  PASSWORD,
  registry,
  tokenServer,
  USER,
} from '../../../support/registry.js';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
const cache = join(folder, 'virtiofs-kit/images');
after(() => rmSync(folder, { recursive: true }));

process.env['XDG_CACHE_HOME'] = folder;
process.env['DOCKER_CONFIG'] = join(folder, 'docker');

async function filesAt(place: string): Promise<Record<string, unknown>> {
  return filesOf(await Image.open(place));
}

const imageOf = (text: string, architecture = 'amd64'): string =>
  `oci:${layout(folder, [tar({ text: { content: text } }), tar({ more: { content: 'x'.repeat(200_000) } })], { architecture })}`;

/** The manifest at a tag of a registry, for an index. */
async function manifestAt(host: string, name: string, tag: string) {
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  const answer = await fetch(`http://${host}/v2/${name}/manifests/${tag}`, { headers: { accept } });
  const bytes = Buffer.from(await answer.arrayBuffer());
  return { mediaType: accept, digest: sha256(bytes), size: bytes.length };
}

/** What Docker's configuration is for a test. */
function configure(t: TestContext, config: object): void {
  mkdirSync(process.env['DOCKER_CONFIG']!, { recursive: true });
  const file = join(process.env['DOCKER_CONFIG']!, 'config.json');
  writeFileSync(file, JSON.stringify(config));
  t.after(() => rmSync(file, { force: true }));
}

const auth = (password: string): string => Buffer.from(`${USER}:${password}`).toString('base64');

describe('an image of a registry', { skip: hasNoRegistry && 'no docker-registry or skopeo' }, () => {
  it('is pulled by its tag, its digest, and for this machine, and kept', async () => {
    await using server = await registry(folder);
    const { host } = server;
    await server.push(imageOf('first'), 'some/app:1');
    await server.push(imageOf('other', 'riscv64'), 'some/app:other');
    await server.push(imageOf('docker'), 'some/app:docker', '--format', 'v2s2');
    assert.equal((await filesAt(`docker://${host}/some/app:1`))['/text'], 'first');
    assert.equal((await filesAt(`${host}/some/app:docker`))['/text'], 'docker');
    const first = await manifestAt(host, 'some/app', '1');
    assert.equal((await filesAt(`${host}/some/app@${first.digest}`))['/text'], 'first');
    await assert.rejects(filesAt(`${host}/some/app:2`), /the registry says: MANIFEST_UNKNOWN/);

    const platform = { os: 'linux' };
    const index = {
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
      manifests: [
        {
          ...(await manifestAt(host, 'some/app', 'other')),
          platform: { ...platform, architecture: 'riscv64' },
        },
        { ...first, platform: { ...platform, architecture: 'amd64' } },
      ],
    };
    const put = (tag: string, manifests: object[]) =>
      fetch(`http://${host}/v2/some/app/manifests/${tag}`, {
        method: 'PUT',
        headers: { 'content-type': index.mediaType },
        body: JSON.stringify({ ...index, manifests }),
      });
    assert.equal((await put('all', index.manifests)).status, 201);
    assert.equal((await put('others', index.manifests.slice(0, 1))).status, 201);
    assert.equal((await filesAt(`${host}/some/app:all`))['/text'], 'first');
    await assert.rejects(filesAt(`${host}/some/app:others`), /no image for this machine/);

    // A blob that was damaged on this host is pulled again; others come from here.
    const manifest = join(cache, first.digest.replace(':', '-'));
    writeFileSync(manifest, 'x'.repeat(first.size));
    assert.equal((await filesAt(`${host}/some/app:all`))['/text'], 'first');
    await server[Symbol.asyncDispose]();
    assert.equal((await filesAt(`${host}/some/app@${first.digest}`))['/text'], 'first');
    writeFileSync(manifest, 'x'.repeat(first.size));
    await assert.rejects(filesAt(`${host}/some/app@${first.digest}`), /ECONNREFUSED/);
  });

  it('is pulled with a password, of the configuration or of a helper', async (t) => {
    await using server = await registry(folder, basicAuth(folder));
    const { host } = server;
    await server.push(imageOf('secret'), 'app:1', '--dest-creds', `${USER}:${PASSWORD}`);
    await assert.rejects(filesAt(`${host}/app:1`), /needs a user and a password/);
    configure(t, { auths: { [host]: { auth: auth('wrong') } } });
    await assert.rejects(filesAt(`${host}/app:1`), /the registry says: UNAUTHORIZED/);
    configure(t, { auths: { [`https://${host}/v1/`]: { auth: auth(PASSWORD) } } });
    assert.equal((await filesAt(`${host}/app:1`))['/text'], 'secret');

    const programs = join(folder, 'programs');
    mkdirSync(programs);
    const helper = join(programs, 'docker-credential-test');
    const path = process.env['PATH'];
    process.env['PATH'] = `${programs}:${path}`;
    t.after(() => {
      process.env['PATH'] = path;
    });
    const answer = JSON.stringify({ ServerURL: host, Username: USER, Secret: PASSWORD });
    writeFileSync(helper, `#!/bin/sh\nread -r host\n[ "$1 $host" = "get ${host}" ] && echo '${answer}'\n`);
    chmodSync(helper, 0o755);
    configure(t, { credHelpers: { [host]: 'test' } });
    assert.equal((await filesAt(`${host}/app:1`))['/text'], 'secret');
    configure(t, { credsStore: 'test', auths: { [host]: {} } });
    assert.equal((await filesAt(`${host}/app:1`))['/text'], 'secret');
    writeFileSync(helper, '#!/bin/sh\necho "credentials not found in native keychain"; exit 1\n');
    await assert.rejects(filesAt(`${host}/app:1`), /needs a user and a password/);
    writeFileSync(helper, '#!/bin/sh\necho "the keychain is locked"; exit 1\n');
    await assert.rejects(filesAt(`${host}/app:1`), /docker-credential-test: the keychain is locked/);
    configure(t, { credsStore: '../x' });
    await assert.rejects(filesAt(`${host}/app:1`), /no name of one/);
    configure(t, { credsStore: 'none-here' });
    await assert.rejects(filesAt(`${host}/app:1`), /docker-credential-none-here: .*ENOENT/);
  });

  it('is pulled with a token that a password, or another token, is good for', async (t) => {
    await using tokens = await tokenServer(folder);
    await using server = await registry(folder, tokens.lines);
    const { host } = server;
    await server.push(imageOf('by token'), 'app:1', '--dest-creds', `${USER}:${PASSWORD}`);
    tokens.asked.length = 0;
    await assert.rejects(filesAt(`${host}/app:1`), /the registry says: 401/);
    configure(t, { auths: { [host]: { auth: auth(PASSWORD) } } });
    assert.equal((await filesAt(`${host}/app:1`))['/text'], 'by token');
    rmSync(cache, { recursive: true });
    configure(t, { auths: { [host]: { identitytoken: IDENTITY_TOKEN } } });
    assert.equal((await filesAt(`${host}/app:1`))['/text'], 'by token');
    const scope = 'repository:app:pull';
    assert.deepEqual(tokens.asked, ['GET undefined', `GET ${scope}`, `POST ${scope}`]);
  });
});

/** What a sandbox does that has a change, without one. */
async function push(place: string, base: Image | undefined, content: string): Promise<void> {
  await pushImage(referenceOf(place)!, base, (sink) => {
    sink.write(tar({ added: { content } }));
    return Promise.resolve();
  });
}

const skopeo = async (...words: string[]): Promise<string> =>
  (await promisify(execFile)('skopeo', words)).stdout;

describe(
  'an image that is written to a registry',
  { skip: hasNoRegistry && 'no docker-registry or skopeo' },
  () => {
    it('has the layers of the one before and one more, and is read by others', async (t) => {
      await using server = await registry(folder, basicAuth(folder));
      const { host } = server;
      const place = `docker://${host}/some/app:next`;
      const base = await Image.open(imageOf('base').slice('oci:'.length));
      await assert.rejects(push(place, base, 'x'), /needs a user and a password/);
      configure(t, { auths: { [host]: { auth: auth(PASSWORD) } } });
      await push(place, base, 'new');
      const expected = { '/added': 'new', '/more': 'x'.repeat(200_000), '/text': 'base' };
      assert.deepEqual(await filesAt(place), expected);
      const words = [`${USER}:${PASSWORD}`, place];
      const seen = JSON.parse(await skopeo('inspect', '--tls-verify=false', '--creds', ...words)) as {
        Layers: string[];
      };
      assert.equal(seen.Layers.length, 3);
      const copy = join(folder, 'copied');
      await skopeo('copy', '-q', '--src-tls-verify=false', '--src-creds', ...words, `oci:${copy}:1`);
      assert.deepEqual(await filesAt(`${copy}:1`), expected);
      // From the registry, and under another name there.
      await push(`docker://${host}/other:1`, await Image.open(place), 'newer');
      assert.equal((await filesAt(`docker://${host}/other:1`))['/added'], 'newer');
      await push(`docker://${host}/alone`, undefined, 'only');
      assert.deepEqual(await filesAt(`docker://${host}/alone`), { '/added': 'only' });
      const { digest } = base.layers[0]!.descriptor!;
      await assert.rejects(push(`docker://${host}/other@${digest}`, base, 'x'), /give a tag/);
    });

    it('is written by a token for that, and what is damaged is refused', async (t) => {
      await using tokens = await tokenServer(folder);
      await using server = await registry(folder, tokens.lines);
      const { host } = server;
      configure(t, { auths: { [host]: { auth: auth(PASSWORD) } } });
      const directory = imageOf('damaged').slice('oci:'.length);
      await push(`docker://${host}/app:1`, await Image.open(directory), 'new');
      assert.ok(tokens.asked.some((scope) => /^GET repository:app:(pull,push|push,pull)$/.test(scope)));
      const image = await Image.open(directory);
      const layer = image.layers[0]!;
      const bytes = readFileSync(join(image.store.path, layer.name));
      writeFileSync(join(image.store.path, layer.name), bytes.fill(120, bytes.length - 8));
      await assert.rejects(push(`docker://${host}/fresh:1`, image, 'x'), /the registry says: DIGEST_INVALID/);
      await assert.rejects(filesAt(`docker://${host}/fresh:1`), /NAME_UNKNOWN|MANIFEST_UNKNOWN/);
    });
  },
);

describe('a registry by HTTPS', { skip: hasNoRegistry && 'no docker-registry or skopeo' }, () => {
  /** Certificates are read when a process starts. */
  const inProcess = async (place: string, certificate: Certificate | undefined): Promise<string> => {
    const module = new URL('../../../../core/sandbox/image/image.js', import.meta.url).href;
    const script = `const { Image } = await import(${JSON.stringify(module)});
      try { console.log((await Image.open(process.argv[1])).layers.length) } catch (error) { console.log(error.message) }`;
    const env = { ...process.env, ...(certificate && { NODE_EXTRA_CA_CERTS: certificate.file }) };
    const words = ['--input-type=module', '-e', script, place];
    return (await promisify(execFile)(process.execPath, words, { env })).stdout;
  };

  it('is read and written where its certificate is known, and refused where not', async () => {
    const certificate = certificateFor(folder, 'IP:127.0.0.1');
    await using server = await registry(folder, [], certificate);
    await server.push(imageOf('secure'), 'app:1');
    const place = `docker://${server.host}/app:1`;
    assert.equal(await inProcess(place, certificate), '2\n');
    const refused = /^registry 127\.0\.0\.1:\d+: .*certificate.*NODE_EXTRA_CA_CERTS\n$/;
    assert.match(await inProcess(place, undefined), refused);
    assert.match(await inProcess(place, certificateFor(folder, 'IP:127.0.0.1')), refused);
  });

  it('is refused with a certificate of another server', async () => {
    const certificate = certificateFor(folder, 'DNS:other.example');
    await using server = await registry(folder, [], certificate);
    await server.push(imageOf('secure'), 'app:1');
    const said = await inProcess(`docker://${server.host}/app:1`, certificate);
    assert.match(said, /IP: 127\.0\.0\.1 is not in the cert's list/);
  });
});

/** A server that means harm, or is broken. @returns its address as a registry. */
async function server(t: TestContext, answer: RequestListener): Promise<string> {
  const http = createServer(answer);
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  await once(http.listen(0, '127.0.0.1'), 'listening');
  return `127.0.0.1:${(http.address() as AddressInfo).port}`;
}

it('what a registry must not answer is refused, and pulling can be given up', async (t) => {
  const layer = tar({ text: { content: 'x' } });
  const config = Buffer.from(JSON.stringify({ rootfs: { diff_ids: [sha256(layer)] } }));
  const of = (bytes: Buffer, size = bytes.length) => ({ mediaType: 'x/y', digest: sha256(bytes), size });
  const good = { config: of(config), layers: [of(layer)] };
  let asked = 0;
  const manifests: Readonly<Record<string, object | string>> = {
    good,
    'no-json': '<html>',
    'other-form': { schemaVersion: 1, fsLayers: [] },
    long: ' '.repeat(5 << 20),
    'too-large': { ...good, layers: [of(layer, 2 ** 50)] },
    short: { ...good, layers: [of(layer, layer.length - 1)] },
    endless: { ...good, layers: [{ ...of(layer), digest: `sha256:${'e'.repeat(64)}` }] },
    other: { ...good, layers: [{ ...of(layer), digest: `sha256:${'f'.repeat(64)}` }] },
    plain: { ...good, layers: [{ ...of(layer), digest: `sha256:${'d'.repeat(64)}` }] },
    broken: { ...good, layers: [{ ...of(layer), digest: `sha256:${'c'.repeat(64)}` }] },
  };
  const host = await server(t, (request, response) => {
    const name = request.url!.split('/').at(-1)!;
    const manifest = manifests[name];
    if (manifest !== undefined)
      return void response.end(typeof manifest === 'string' ? manifest : JSON.stringify(manifest));
    if (name === sha256(config)) return void response.end(config);
    if (name === sha256(layer)) return void response.end(layer);
    if (name.endsWith('fffffffff')) return void response.end(Buffer.alloc(layer.length));
    if (name.endsWith('ddddddddd'))
      return void response.writeHead(307, { location: 'http://example.com/x' }).end();
    if (name.endsWith('ccccccccc')) {
      asked += 1;
      response.writeHead(200, { 'content-length': layer.length });
      return void response.write(layer.subarray(0, 10), () => response.destroy());
    }
    if (name.endsWith('eeeeeeeee')) {
      const more = (): void => void response.write(Buffer.alloc(1 << 16), (error) => error ?? more());
      return more();
    }
    if (name === 'around') return void response.writeHead(302, { location: request.url }).end();
    if (name === 'busy') return void response.writeHead(503, { 'retry-after': '1' }).end('busy');
    if (name === 'realm')
      return void response
        .writeHead(401, { 'www-authenticate': 'Bearer realm="http://example.com/t"' })
        .end();
    if (name === 'digest')
      return void response.writeHead(401, { 'www-authenticate': 'Digest realm="x"' }).end();
    if (name === 'silent') return;
    response.writeHead(404).end('\x1b[2Jnothing');
  });
  assert.equal((await filesAt(`${host}/app:good`))['/text'], 'x');
  const cases: Readonly<Record<string, RegExp>> = {
    'no-json': /no JSON/,
    'other-form': /image 127\.0\.0\.1:\d+\/app:other-form: /,
    long: /longer than 4194304 bytes/,
    'too-large': /more than the \d+ that are kept/,
    short: /damaged/,
    endless: /damaged/,
    other: /damaged/,
    plain: /leads to http:\/\/example\.com\/x, which is not HTTPS/,
    around: /redirects more than 5 times/,
    broken: /image 127\.0\.0\.1:\d+\/app:broken: /,
    busy: /the registry says: 503/,
    realm: /leads to http:\/\/example\.com\/t, which is not HTTPS/,
    digest: /credentials of an unknown kind/,
    none: /the registry says: 404 Not Found$/,
  };
  for (const [name, reason] of Object.entries(cases)) {
    await assert.rejects(filesAt(`${host}/app:${name}`), (error: Error) => {
      assert.ok(error instanceof UsageError, error.stack);
      assert.match(error.message, reason, name);
      return true;
    });
  }
  assert.equal(asked, 3);
  assert.deepEqual(
    readdirSync(cache).filter((name) => name.endsWith('.partial')),
    [],
  );
  // Named by its digest, a layer that is kept is no image.
  const large = Buffer.alloc(5 << 20);
  const named = { digest: sha256(large), size: large.length };
  await (await new BlobCache().add(named, Readable.from([large]))).close();
  await assert.rejects(filesAt(`${host}/app@${named.digest}`), /is no manifest/);
  const gone = new AbortController();
  const waiting = Image.open(`${host}/app:silent`, gone.signal);
  setTimeout(() => gone.abort(new Error('given up')), 100);
  await assert.rejects(waiting, /given up/);
  await assert.rejects(Image.open('docker://127.0.0.1:1/app'), /registry 127\.0\.0\.1:1: bad port/);
});
