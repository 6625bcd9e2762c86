import { existsSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import type { SecureContext } from 'node:tls';
import { UsageError } from '../../../core/backend/index.js';
import type { S3Options } from '../options.js';

/** Sections of an AWS configuration file by profile, each with its settings in lower case. */
export type Settings = Map<string, Map<string, string>>;

/** The settings of both configuration files (AWS SDKs and Tools Reference Guide). */
export function readConfiguration(environment: NodeJS.ProcessEnv): Settings {
  const home = join(homedir(), '.aws');
  const settings: Settings = new Map();
  readSettings(environment['AWS_CONFIG_FILE'] ?? join(home, 'config'), settings);
  readSettings(environment['AWS_SHARED_CREDENTIALS_FILE'] ?? join(home, 'credentials'), settings);
  return settings;
}

function readSettings(file: string, settings: Settings): void {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return;
  }
  let section: Map<string, string> | undefined;
  for (const line of text.split('\n')) {
    const name = /^\s*\[\s*(?:profile\s+)?["']?([^"'\]]+?)["']?\s*\]/.exec(line)?.[1];
    if (name !== undefined) {
      section = settings.get(name) ?? new Map<string, string>();
      settings.set(name, section);
    }
    const [, key, value] = /^([a-z_]+)\s*=\s*(.*?)\s*$/i.exec(line) ?? [];
    if (key !== undefined) section?.set(key.toLowerCase(), value ?? '');
  }
}

/**
 * The URL of the server, where it is not Amazon's: the option, the environment, the profile that an
 * option names. (The SDK looks into the default profile itself, but not into that one.)
 */
export function endpointOf(
  { endpoint, profile }: Pick<S3Options, 'endpoint' | 'profile'>,
  environment: NodeJS.ProcessEnv = process.env,
): string | undefined {
  const named = endpoint ?? environment['AWS_ENDPOINT_URL_S3'] ?? environment['AWS_ENDPOINT_URL'];
  if (named !== undefined || profile === undefined) return named;
  return readConfiguration(environment).get(profile)?.get('endpoint_url');
}

/** Whether a server can be reached by its own name alone, and not by one with the bucket in it. */
export function isBareHost(endpoint: string | undefined): boolean {
  if (endpoint === undefined || !URL.canParse(endpoint)) return false;
  const host = new URL(endpoint).hostname.replace(/^\[|\]$/g, '');
  return host === 'localhost' || isIP(host) !== 0;
}

/**
 * The authorities that are trusted where `AWS_CA_BUNDLE` names a file: those in it beside Node's
 * own and those of `NODE_EXTRA_CA_CERTS`. Undefined where it does not: Node's defaults count.
 * @throws UsageError if the file can't be read, or is none of certificates.
 */
export function trust(environment: NodeJS.ProcessEnv = process.env): SecureContext | undefined {
  const file = environment['AWS_CA_BUNDLE'];
  if (file === undefined || file === '') return undefined;
  const extra = environment['NODE_EXTRA_CA_CERTS'];
  try {
    const own = [readFileSync(file, 'utf8')];
    // Node has complained of it already where it can't be read.
    if (extra !== undefined && existsSync(extra)) own.push(readFileSync(extra, 'utf8'));
    const { rootCertificates } = process.getBuiltinModule('node:tls');
    return createSecureContext({ ca: [...rootCertificates, ...own] });
  } catch (error) {
    throw new UsageError(`AWS_CA_BUNDLE ${file}: ${(error as Error).message}`, { cause: error });
  }
}
