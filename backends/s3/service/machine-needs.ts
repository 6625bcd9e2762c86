import { existsSync, mkdirSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import type { BackendNeeds } from '../../../core/backend/index.js';
import { readConfiguration } from '../client/endpoint.js';
import { defaultFolder } from './mounted-bucket.js';
import type { S3Options } from '../options.js';

/**
 * Environment variables that name files which the SDK reads. The files may be replaced while the
 * daemon runs, so access to their folders is needed.
 */
const FILE_VARIABLES = [
  'AWS_CONFIG_FILE',
  'AWS_SHARED_CREDENTIALS_FILE',
  'AWS_WEB_IDENTITY_TOKEN_FILE',
  'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE',
  'AWS_CA_BUNDLE',
  'NODE_EXTRA_CA_CERTS',
];

/**
 * What a mount uses of the machine: the cache folder, and what the SDK's credential chain reads.
 * The HTTP client has compiled its WebAssembly by the end of the mount.
 */
export function machineNeeds(options: S3Options, environment: NodeJS.ProcessEnv = process.env): BackendNeeds {
  const folder = options.cacheDir ?? defaultFolder(options);
  // Access can be granted to existing paths only.
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const files = FILE_VARIABLES.flatMap((name) => environment[name] ?? []).map((file) => dirname(file));
  const paths = [
    { path: folder, write: true, listens: true },
    // SSO sign-ons store their tokens below it.
    { path: join(homedir(), '.aws'), write: true },
    ...files.map((path) => ({ path, write: false })),
    ...(options.customerKeyFile === undefined ? [] : [{ path: options.customerKeyFile, write: false }]),
  ].filter(({ path }) => existsSync(path));
  const foreign = paths.some(({ path }) => statSync(path).uid !== process.geteuid?.());
  const programs = usesProgram(options.profile, environment);
  return { paths, capabilities: foreign ? ['dac_override'] : [], programs, network: true };
}

/**
 * Whether credentials come from a program: `credential_process` in the profile, or in one that it
 * builds upon (AWS SDKs and Tools Reference Guide, "Process credential provider"). Keys in the
 * environment come before the default profile's.
 */
function usesProgram(profile: string | undefined, environment: NodeJS.ProcessEnv): boolean {
  const named = profile ?? environment['AWS_PROFILE'];
  if (named === undefined && environment['AWS_ACCESS_KEY_ID'] !== undefined) return false;
  const settings = readConfiguration(environment);
  const seen = new Set<string>();
  for (let name: string | undefined = named ?? 'default'; name !== undefined && !seen.has(name);) {
    seen.add(name);
    const section = settings.get(name);
    if (section?.has('credential_process') === true) return true;
    name = section?.get('source_profile');
  }
  return false;
}
