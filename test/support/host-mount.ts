import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { type Backend, type PluginEnvironment, type Logger, UsageError } from '../../core/backend/index.js';
import { Session } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { HostMount, type MountOptions } from '../../core/mount/index.js';
import { Export, type ExportOptions } from '../../core/state/index.js';
import { contentions } from './workloads.js';

/*
 * Exports mounted on this host for tests. The process that serves a mount must never wait for it.
 * So child processes use the mount. No child starts with its working directory there: this process
 * would wait for the change of directory.
 */

function drop(): void {}

/** A logger that keeps warnings and errors. */
export interface KeepingLog extends Logger {
  readonly lines: string[];
}

export function keepingLog(): KeepingLog {
  const lines: string[] = [];
  const keep = (fields: object, message: string): void =>
    void lines.push(`${message} ${JSON.stringify(fields)}`);
  return { lines, debug: drop, info: drop, warn: keep, error: keep };
}

/** What a plugin gets to make a backend. The backend is not made of others. */
export function pluginEnvironment(): PluginEnvironment & { readonly log: KeepingLog } {
  const createBackend = (): never => {
    throw new UsageError('not made of others');
  };
  return { log: keepingLog(), createBackend };
}

/** One export, mounted once or several times. */
export class MountedExport implements AsyncDisposable {
  readonly export: Export;
  readonly mounts: readonly HostMount[];
  readonly log: KeepingLog;

  private constructor(shared: Export, mounts: readonly HostMount[], log: KeepingLog) {
    this.export = shared;
    this.mounts = mounts;
    this.log = log;
  }

  static async open(
    backend: Backend,
    {
      times = 1,
      mount = {},
      settings = {},
    }: { times?: number; mount?: Partial<MountOptions>; settings?: Partial<ExportOptions> } = {},
  ): Promise<MountedExport> {
    const log = keepingLog();
    const shared = await Export.open(backend, { log, createBuffer: hostBuffer, ...settings });
    const mounts: HostMount[] = [];
    for (let i = 0; i < times; i++) {
      const directory = await mkdtemp(join(tmpdir(), 'virtiofs-kit-mount-'));
      const openSession = () => new Session(shared, { drainTimeoutMs: 500 });
      const flags = { source: 'test', setuid: true, devices: true };
      mounts.push(await HostMount.open({ ...flags, directory, log, openSession, ...mount }));
    }
    return new MountedExport(shared, mounts, log);
  }

  /** Where it is mounted first. */
  get directory(): string {
    return this.mounts[0]!.directory;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const mount of this.mounts) {
      await mount.unmount();
      await rmdir(mount.directory);
    }
    await this.export.close();
  }
}

export interface ShellResult {
  /** Exit code; 128 and more, as in a shell, if a signal ended it. */
  readonly code: number;
  /** Both streams, in the order written. */
  readonly output: string;
}

/** Runs a shell script in a directory. It is ended after two minutes. */
export function shell(script: string, directory: string): Promise<ShellResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(
      'timeout',
      ['-k', '5', '120', 'sh', '-c', `cd "$0" || exit 99\nexec 2>&1\n${script}`, directory],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
        cwd: '/',
      },
    );
    let output = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.once('error', reject);
    child.once('close', (code) => resolve({ code: code ?? 128, output }));
  });
}

/** A directory of the host's own file system, removed afterwards. */
export async function temporaryDirectory(
  folder = tmpdir(),
): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(folder, 'virtiofs-kit-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/**
 * Declares tests that locks hold between the first two mounts of an export. It must be mounted when
 * they run.
 */
export function contend(mounted: () => MountedExport): void {
  contentions.forEach(({ name, holder, contender }, index) => {
    it(`${name} of one mount keep the other mount out`, async () => {
      const [first, second] = mounted().mounts;
      await shell(`mkdir c${index}`, first!.directory);
      const results = await Promise.all([
        shell(`cd c${index}\n${holder}`, first!.directory),
        shell(`cd c${index}\n${contender}`, second!.directory),
      ]);
      assert.deepEqual(results, [
        { code: 0, output: 'ok\n' },
        { code: 0, output: 'ok\n' },
      ]);
    });
  });
}
