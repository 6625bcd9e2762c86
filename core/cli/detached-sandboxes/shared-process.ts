import { createHash, randomBytes } from 'node:crypto';
import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { referenceOf } from '../../sandbox/image/registry/reference.js';
import type { StartOptions } from './start-options.js';

/**
 * Variables that decide what a sandbox is made of, and how: where programs, caches, temporary files
 * and the proxy are.
 */
const DECIDING =
  /^(PATH|HOME|TMPDIR|XDG_CACHE_HOME|DOCKER_CONFIG|SSL_CERT_\w+|\w+_PROXY|NODE_\w+|LD_\w+|VIRTIOFS_KIT_\w+)$/i;

/** Variables that only tell of the terminal, or of the shell. */
const PASSING =
  /^(_|SHLVL|PWD|OLDPWD|TERM\w*|COLUMNS|LINES|WINDOWID|SSH_(TTY|CLIENT|CONNECTION)|TMUX\w*|STY|GPG_TTY|\w*SESSION_ID)$/;

const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user'];

/** Which process is to hold a sandbox. */
export interface ProcessChoice {
  /** Sandboxes of one key are held by one process. */
  readonly key: string;
  /** Where it is started. */
  readonly cwd: string;
}

/**
 * Chooses the process for a sandbox: that of all sandboxes of this user that would be the same
 * whichever command line's process held them. It depends on this build of the program, on the
 * user's rights, limits and namespaces, and on the variables that count. Backends of mounts and
 * helpers of registries may read any variable, and the directory.
 * @param isAlone whether it is to have a process of its own.
 */
export function chooseProcess({ mounts, image }: StartOptions, isAlone: boolean): ProcessChoice {
  const isFree = Object.values(mounts).some(({ source }) => typeof source !== 'string');
  const cwd = isFree ? process.cwd() : '/';
  if (isAlone) return { key: randomBytes(8).toString('hex'), cwd };
  const isPulled = image !== undefined && referenceOf(image) !== undefined;
  const counts = (name: string): boolean => (isFree || isPulled ? !PASSING.test(name) : DECIDING.test(name));
  const { ino, mtimeMs } = statSync(process.argv[1]!);
  const facts = [
    cwd,
    [process.execPath, ...process.execArgv, process.argv[1], ino, mtimeMs],
    Object.entries(process.env)
      .filter(([name]) => counts(name))
      .sort(),
    NAMESPACES.map((name) => readlinkSync(`/proc/self/ns/${name}`)),
    readFileSync('/proc/self/limits', 'utf8'),
    readFileSync('/proc/self/status', 'utf8').match(/^(Umask|[UG]id|Groups|Cap\w+|NoNewPrivs|Seccomp):.*$/gm),
  ];
  return { key: createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16), cwd };
}
