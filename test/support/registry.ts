import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process';
import { createPrivateKey, randomUUID, sign, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { freePort } from './free-port.js';

/** Where `.ci/setup test` unpacks it. */
const UNPACKED = fileURLToPath(new URL('../../../.cache/registry/usr/bin/docker-registry', import.meta.url));
const PROGRAM = existsSync(UNPACKED) ? UNPACKED : 'docker-registry';

/** Whether Debian's `docker-registry` or `skopeo`, which fills it, is not here. */
export const hasNoRegistry = [PROGRAM, 'skopeo'].some(
  (program) => spawnSync(program, ['--version']).error !== undefined,
);

/** Who may read where credentials are asked for. */
export const USER = 'reader';
export const PASSWORD = 'open sesame';

/** Of that password, by bcrypt. */
const HASH = '$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW';

/** A registry on the loopback device. */
export interface Registry extends AsyncDisposable {
  /** `HOST:PORT`. */
  readonly host: string;
  /** Where it keeps what it was given. */
  readonly storage: string;
  /** Copies an image into it: skopeo's words for where it is, and `NAME:TAG`. */
  push(from: string, to: string, ...words: string[]): Promise<unknown>;
}

/**
 * Starts a registry.
 * @param auth how it asks for credentials: lines of its configuration.
 * @param certificate by which it speaks HTTPS; default: HTTP.
 */
export async function registry(
  folder: string,
  auth: readonly string[] = [],
  certificate?: Certificate,
): Promise<Registry> {
  const storage = mkdtempSync(join(folder, 'registry-'));
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  const file = join(storage, 'config.yml');
  const lines = [
    'version: 0.1',
    'log: {level: error, accesslog: {disabled: true}}',
    `storage: {filesystem: {rootdirectory: ${storage}}}`,
    certificate === undefined
      ? `http: {addr: ${host}}`
      : `http: {addr: ${host}, tls: {certificate: ${certificate.file}, key: ${certificate.key}}}`,
    ...auth,
  ];
  writeFileSync(file, lines.join('\n'));
  const server = spawn(PROGRAM, ['serve', file], { stdio: 'ignore' });
  await answering(port, server);
  return {
    host,
    storage,
    push(from, to, ...words) {
      const target = `docker://${host}/${to}`;
      return promisify(execFile)('skopeo', ['copy', '-q', '--dest-tls-verify=false', ...words, from, target]);
    },
    async [Symbol.asyncDispose]() {
      if (server.exitCode !== null || server.signalCode !== null) return;
      server.kill();
      await once(server, 'exit');
    },
  };
}

/** Lines of a configuration that asks for a user and a password. */
export function basicAuth(folder: string): string[] {
  const path = join(folder, 'htpasswd');
  writeFileSync(path, `${USER}:${HASH}\n`);
  return [`auth: {htpasswd: {realm: registry, path: ${path}}}`];
}

/** A server that gives tokens to who has a password, and lines of a registry that trusts it. */
export async function tokenServer(
  folder: string,
): Promise<AsyncDisposable & { readonly lines: string[]; readonly asked: string[] }> {
  const own = join(folder, 'tokens');
  mkdirSync(own, { recursive: true });
  const [key, certificate] = [join(own, 'key.pem'), join(own, 'certificate.pem')];
  const words = 'req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens';
  execFileSync('openssl', [...words.split(' '), '-keyout', key, '-out', certificate], { stdio: 'ignore' });
  const asked: string[] = [];
  const issue = (scope: string): string => {
    const der = new X509Certificate(readFileSync(certificate)).raw.toString('base64');
    const [type, name, actions = ''] = scope.split(':');
    const now = Math.floor(Date.now() / 1000);
    const claims = {
      iss: 'tokens',
      sub: USER,
      aud: 'registry',
      exp: now + 300,
      nbf: now - 300,
      iat: now,
      jti: randomUUID(),
      access: [{ type, name, actions: actions.split(',') }],
    };
    const parts = [{ typ: 'JWT', alg: 'RS256', x5c: [der] }, claims].map((part) =>
      Buffer.from(JSON.stringify(part)).toString('base64url'),
    );
    const signed = sign('sha256', Buffer.from(parts.join('.')), createPrivateKey(readFileSync(key)));
    return [...parts, signed.toString('base64url')].join('.');
  };
  const server = createServer((request, response) => {
    void scopeOf(request).then((scope) => {
      asked.push(`${request.method} ${scope}`);
      response.statusCode = scope === undefined ? 401 : 200;
      response.end(scope === undefined ? '{"details":"no"}' : JSON.stringify({ token: issue(scope) }));
    });
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const realm = `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`;
  const options = `realm: "${realm}", service: registry, issuer: tokens, rootcertbundle: ${certificate}`;
  return {
    lines: [`auth: {token: {${options}}}`],
    asked,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

/** A token that is as good as the password. */
export const IDENTITY_TOKEN = 'identity';

/** What a request of a token is for; undefined if it may not have it. */
async function scopeOf(request: IncomingMessage): Promise<string | undefined> {
  const { searchParams } = new URL(request.url ?? '', 'http://host');
  if (request.method === 'POST') {
    let body = '';
    for await (const part of request) body += String(part);
    const form = new URLSearchParams(body);
    const isRight =
      form.get('grant_type') === 'refresh_token' && form.get('refresh_token') === IDENTITY_TOKEN;
    return isRight ? (form.get('scope') ?? '') : undefined;
  }
  const basic = `Basic ${Buffer.from(`${USER}:${PASSWORD}`).toString('base64')}`;
  return request.headers.authorization === basic ? (searchParams.get('scope') ?? '') : undefined;
}

/** Waits until something listens. */
async function answering(port: number, server: ChildProcess): Promise<void> {
  for (;;) {
    if (server.exitCode !== null) throw new Error(`docker-registry ended with ${server.exitCode}`);
    const socket = connect(port, '127.0.0.1');
    const isUp = await once(socket, 'connect').then(
      () => true,
      () => false,
    );
    socket.destroy();
    if (isUp) return;
    await sleep(50);
  }
}

/** A certificate that nobody but itself answers for. */
export interface Certificate {
  readonly file: string;
  readonly key: string;
}

/** Makes a certificate. @param names of the server, such as `IP:127.0.0.1`. */
export function certificateFor(folder: string, names: string): Certificate {
  const own = mkdtempSync(join(folder, 'certificate-'));
  const [file, key] = [join(own, 'certificate.pem'), join(own, 'key.pem')];
  const words = 'req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=registry';
  execFileSync(
    'openssl',
    [...words.split(' '), '-addext', `subjectAltName=${names}`, '-keyout', key, '-out', file],
    { stdio: 'ignore' },
  );
  return { file, key };
}
