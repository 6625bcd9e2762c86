import { posix } from 'node:path';
import { UsageError } from '../backend/index.js';
import type { PathRule } from '../wrappers/index.js';
import type { HostFiles } from '../../backends/overlay/index.js';
import { fieldsOf } from './users.js';

/** What is hidden of each home directory: keys, tokens, passwords, sessions and histories. */
export const SECRETS = [
  '.ssh',
  '.gnupg',
  '.aws',
  '.azure',
  '.config/gcloud',
  '.config/gh',
  '.config/hub',
  '.config/op',
  '.config/rclone',
  '.config/git/credentials',
  '.config/google-chrome',
  '.config/chromium',
  '.mozilla',
  '.kube',
  '.docker',
  '.config/containers/auth.json',
  '.netrc',
  '.git-credentials',
  '.npmrc',
  '.yarnrc.yml',
  '.pypirc',
  '.cargo/credentials',
  '.cargo/credentials.toml',
  '.gem/credentials',
  '.m2/settings.xml',
  '.gradle/gradle.properties',
  '.terraform.d/credentials.tfrc.json',
  '.vault-token',
  '.pgpass',
  '.my.cnf',
  '.s3cfg',
  '.password-store',
  '.local/share/keyrings',
  '.bash_history',
  '.zsh_history',
  '.python_history',
  '.node_repl_history',
  '.claude',
  '.claude.json',
  '.codex',
] as const;

/** What a sandbox's commands may do, by path. */
export interface Policy {
  readonly hide: readonly string[];
  readonly readOnly: readonly string[];
  readonly deny: readonly string[];
  /** What is seen at paths, by these. */
  readonly redirect: Readonly<Record<string, string>>;
  readonly hideSecrets: boolean;
}

/**
 * The rules of a policy, for the paths where things really are: a rule for a symbolic link's name
 * is one for what it leads to, too.
 * @throws UsageError for a redirect to what is not there.
 */
export async function rulesOf(files: HostFiles, policy: Policy): Promise<PathRule[]> {
  const hidden = [...policy.hide, ...(policy.hideSecrets ? await secretsOf(files) : [])];
  const rules: PathRule[] = [];
  const add = async (path: string, rule: (real: string) => PathRule): Promise<void> => {
    for (const real of await realPaths(files, path)) rules.push(rule(real));
  };
  for (const path of hidden) await add(path, (real) => ({ path: real, access: 'hidden' }));
  for (const path of policy.deny) await add(path, (real) => ({ path: real, access: 'denied' }));
  for (const path of policy.readOnly) await add(path, (real) => ({ path: real, access: 'read-only' }));
  for (const [path, given] of Object.entries(policy.redirect)) {
    const to = await realOf(files, given);
    if (!(await files.exists(to)))
      throw new UsageError(`redirect ${path}: there is no ${given} in the sandbox`);
    await add(path, (real) => ({ path: real, access: 'redirected', to }));
  }
  return rules;
}

/** The secrets that are there, of every home directory that `/etc/passwd` names. */
async function secretsOf(files: HostFiles): Promise<string[]> {
  const homes = (await fieldsOf(files, '/etc/passwd')).map((fields) => fields[5] ?? '');
  const found: string[] = [];
  for (const home of new Set(homes)) {
    if (!home.startsWith('/') || !(await files.exists(home))) continue;
    for (const name of SECRETS) {
      const path = posix.join(home, name);
      if (await files.exists(path)) found.push(path);
    }
  }
  return found;
}

/** Where a name is, and where it leads to if it is a symbolic link. */
async function realPaths(files: HostFiles, path: string): Promise<Set<string>> {
  const { dir, base } = posix.parse(posix.normalize(path));
  const place = posix.join(await realOf(files, dir), base);
  return new Set([place, await realOf(files, place)]);
}

/** The path itself where there is nothing yet. */
async function realOf(files: HostFiles, path: string): Promise<string> {
  try {
    return await files.realpath(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') return path;
    throw error;
  }
}
