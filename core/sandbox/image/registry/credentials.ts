import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import * as z from 'zod';
import { UsageError } from '../../../backend/index.js';
import { parse } from '../documents.js';

/** Who pulls. */
export type Credentials =
  | { readonly user: string; readonly password: string }
  /** A token for which the registry's server of tokens gives others (OAuth 2, refresh tokens). */
  | { readonly identityToken: string };

const configSchema = z.looseObject({
  auths: z
    .record(
      z.string(),
      z.looseObject({
        auth: z.string().optional(),
        username: z.string().optional(),
        password: z.string().optional(),
        identitytoken: z.string().optional(),
      }),
    )
    .optional(),
  credHelpers: z.record(z.string(), z.string()).optional(),
  credsStore: z.string().optional(),
});

const answerSchema = z.looseObject({ Username: z.string(), Secret: z.string() });

/** The names of Docker Hub, of which Docker uses the last one. */
const DOCKER_HUB = ['docker.io', 'registry-1.docker.io', 'index.docker.io'];
const DOCKER_HUB_KEY = 'https://index.docker.io/v1/';

/** A user name of helpers that says that the secret is an identity token. */
const TOKEN_USER = '<token>';

const HELPER_TIMEOUT_MS = 30_000;

/**
 * The credentials that Docker's configuration has for a registry: `config.json` in the directory
 * that DOCKER_CONFIG names, or in `~/.docker`, and the helpers that it names.
 * @param registry `HOST[:PORT]`.
 * @returns undefined if it has none.
 * @throws UsageError if it cannot be read, or a helper fails.
 */
export async function credentialsFor(
  registry: string,
  signal?: AbortSignal,
): Promise<Credentials | undefined> {
  const file = join(process.env['DOCKER_CONFIG'] ?? join(homedir(), '.docker'), 'config.json');
  const { auths = {}, credHelpers = {}, credsStore } = readConfig(file);
  const names = DOCKER_HUB.includes(registry) ? DOCKER_HUB : [registry];
  const isMeant = ([key]: [string, unknown]): boolean => names.includes(hostOf(key));
  const helper = Object.entries(credHelpers).find(isMeant)?.[1] ?? (credsStore || undefined);
  if (helper !== undefined) {
    const server = names === DOCKER_HUB ? DOCKER_HUB_KEY : registry;
    const found = await askHelper(helper, server, signal);
    if (found !== undefined) return found;
  }
  const entry = Object.entries(auths).find(isMeant)?.[1];
  if (entry === undefined) return undefined;
  if (entry.identitytoken !== undefined && entry.identitytoken !== '')
    return { identityToken: entry.identitytoken };
  if (entry.auth === undefined || entry.auth === '') {
    const { username, password } = entry;
    return username === undefined || password === undefined ? undefined : { user: username, password };
  }
  const [, user, password] = /^([^:]*):([^]*)$/.exec(Buffer.from(entry.auth, 'base64').toString()) ?? [];
  if (user === undefined || password === undefined)
    throw new UsageError(`${file}: auth of ${registry}: must be USER:PASSWORD in base64`);
  // Docker pads some with NULs.
  return { user, password: password.replace(/\0+$/, '') };
}

function readConfig(file: string): z.output<typeof configSchema> {
  let bytes;
  try {
    bytes = readFileSync(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return {};
    throw new UsageError(`${file}: ${code}`, { cause: error });
  }
  return parse(configSchema, bytes, file);
}

/** Keys may be addresses, of which only the host counts. */
function hostOf(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
}

/**
 * Asks `docker-credential-HELPER get`, which reads a server from its input and answers in JSON
 * (docker/docker-credential-helpers).
 */
async function askHelper(
  helper: string,
  server: string,
  signal: AbortSignal | undefined,
): Promise<Credentials | undefined> {
  if (!/^[\w.-]+$/.test(helper)) throw new UsageError(`credential helper ${helper}: no name of one`);
  const program = `docker-credential-${helper}`;
  const late = AbortSignal.timeout(HELPER_TIMEOUT_MS);
  const child = spawn(program, ['get'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    signal: signal === undefined ? late : AbortSignal.any([signal, late]),
  });
  child.stdin.on('error', () => {});
  child.stdin.end(`${server}\n`);
  const [output, code] = await Promise.all([
    text(child.stdout),
    new Promise<number | null>((resolve, reject) => {
      child.once('error', reject).once('close', resolve);
    }),
  ]).catch((error: unknown) => {
    throw new UsageError(`${program}: ${(error as Error).message}`, { cause: error });
  });
  if (code !== 0) {
    if (/credentials not found/.test(output)) return undefined;
    throw new UsageError(`${program}: ${output.trim().slice(0, 200) || `exit code ${code}`}`);
  }
  const { Username: user, Secret: password } = parse(answerSchema, Buffer.from(output), program);
  return user === TOKEN_USER ? { identityToken: password } : { user, password };
}
