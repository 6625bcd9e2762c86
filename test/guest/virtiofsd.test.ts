import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as pass } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Guest } from '../../core/guest/index.js';
import { fastest } from '../support/uml.js';
import { UnixListener } from '../../core/system/index.js';
import { temporaryFolder } from '../support/vhost-user.js';

/*
 * The programs that start virtiofsd, each with the words that its source has. In a guest of
 * User-Mode Linux where there is one, since it is up in a second.
 */

const program = fileURLToPath(new URL('../../core/cli/virtiofsd/main.js', import.meta.url));

interface Caller {
  /** @param folder a folder with the share in `share`. */
  words(folder: string): readonly string[];
  /** Whether the caller listens and hands the socket over as descriptor 3. */
  readonly passesSocket?: boolean;
  /** Whom the daemon runs as. */
  readonly id?: number;
  /** Owner and group on the host of what the guest's root makes; the guest is told 0 and 0. */
  readonly ownerMade?: readonly [uid: number, gid: number];
  /** What standard error has to say before the caller goes on. */
  readonly waitsFor?: RegExp;
}

const share = (folder: string): string => join(folder, 'share');
const socket = (folder: string): string => join(folder, 'socket');

const callers: Record<string, Caller> = {
  'Kata Containers, in Go': {
    passesSocket: true,
    words: (folder) => [
      '--syslog',
      '--cache=auto',
      `--shared-dir=${share(folder)}`,
      '--fd=3',
      '--thread-pool-size=1',
      '--announce-submounts',
    ],
  },
  'Kata Containers, in Rust': {
    waitsFor: /Waiting for vhost-user socket connection/,
    words: (folder) => [
      '--socket-path',
      socket(folder),
      '--shared-dir',
      share(folder),
      '--cache',
      'never',
      '--xattr',
    ],
  },
  libvirt: {
    passesSocket: true,
    words: (folder) => [
      '--fd=3',
      '-o',
      `source=${share(folder)},cache=always,sandbox=chroot,xattr,flock,no_posix_lock`,
      '--thread-pool-size=4',
      '-d',
    ],
  },
  KubeVirt: {
    id: 107,
    ownerMade: [107, 107],
    words: (folder) => [
      `--socket-path=${socket(folder)}`,
      `--shared-dir=${share(folder)}`,
      '--sandbox=none',
      '--cache=auto',
      '--migration-on-error=guest-error',
      '--migration-mode=find-paths',
      '--translate-uid=host:107:0:1',
      '--translate-gid=host:107:0:1',
    ],
  },
  Incus: {
    passesSocket: true,
    words: (folder) => [
      '--fd=3',
      '--cache=never',
      `--shared-dir=${share(folder)}`,
      '--posix-acl=auto',
      '--security-label=auto',
    ],
  },
  'Incus, for a guest with ids of its own,': {
    passesSocket: true,
    ownerMade: [100_000, 100_000],
    words: (folder) => [
      '--fd=3',
      '--cache=metadata',
      `--shared-dir=${share(folder)}`,
      '--translate-uid=map:0:100000:65536',
      '--translate-uid=forbid-guest:65536:4294901759',
      '--translate-gid=map:0:100000:65536',
      '--translate-gid=forbid-guest:65536:4294901759',
    ],
  },
  Proxmox: {
    passesSocket: true,
    words: (folder) => [
      '--fd=3',
      `--shared-dir=${share(folder)}`,
      '--xattr',
      '--posix-acl',
      '--announce-submounts',
      '--allow-direct-io',
      '--cache=auto',
      '--inode-file-handles=prefer',
      '--syslog',
    ],
  },
};

for (const [name, caller] of Object.entries(callers)) {
  test(`as ${name} starts it, a guest mounts, writes and ends, and so does the daemon`, async (t) => {
    const { id = 0, ownerMade = [0, 0] } = caller;
    const folder = temporaryFolder(t);
    chmodSync(folder, 0o755);
    mkdirSync(share(folder));
    writeFileSync(join(share(folder), 'given'), 'from the host\n');
    for (const path of [folder, share(folder), join(share(folder), 'given')]) chownSync(path, ...ownerMade);
    const daemon = await start(t, caller, folder, id);

    await using guest = await Guest.boot({
      accelerator: fastest(),
      signal: daemon.gone,
      shares: [{ socket: socket(folder), tag: 'virtiofs', mountPoint: '/mnt' }],
    });
    const { stdout, stderr } = await guest.exec(
      'cd /mnt && cat given && echo from the guest > made && stat -c "%u %g" made',
    );
    assert.deepEqual([stdout, stderr], ['from the host\n0 0\n', '']);
    const made = join(share(folder), 'made');
    assert.equal(readFileSync(made, 'utf8'), 'from the guest\n');
    assert.deepEqual([statSync(made).uid, statSync(made).gid], ownerMade);
    await guest.shutdown();
    assert.equal(await daemon.ended, 0, daemon.errors());
  });
}

/** Starts the daemon as the caller does, and waits for what the caller waits for. */
async function start(
  t: TestContext,
  { words, passesSocket = false, waitsFor }: Caller,
  folder: string,
  id: number,
): Promise<{ readonly ended: Promise<number | null>; readonly gone: AbortSignal; errors(): string }> {
  const listener = passesSocket ? UnixListener.listen(socket(folder)) : undefined;
  const child = spawn(process.execPath, [program, ...words(folder)], {
    stdio: ['ignore', 'inherit', 'pipe', listener?.fd ?? 'ignore'],
    uid: id,
    gid: id,
  });
  t.after(() => child.kill('SIGKILL'));
  // The daemon has the socket; the path stays for the guest.
  if (listener !== undefined) t.after(() => listener.close());
  const ended = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const gone = new AbortController();
  void ended.then((code) => code === 0 || gone.abort(new Error(errors)));
  let errors = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const isUp = (): boolean => waitsFor?.test(errors) ?? existsSync(socket(folder));
  while (!isUp()) {
    assert.equal(child.exitCode, null, errors);
    await pass(10);
  }
  return { ended, gone: gone.signal, errors: () => errors };
}
