import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { Guest, serve } from 'virtiofs-kit';
import { MemfsVolume } from 'virtiofs-kit/memfs';

/*
 * Runs an untrusted script in a virtual machine of its own, on a copy of a directory, and prints
 * what it did:
 *
 *     node sandbox.js DIRECTORY script.sh
 */

/** What a script is allowed. */
interface Limits {
  readonly seconds: number;
  /** Bytes of all files, those of the copied directory included. */
  readonly size: number;
  readonly files: number;
}

/** What a script did. */
interface Outcome {
  /** Its exit code; undefined if its time was up. */
  readonly code: number | undefined;
  readonly output: string;
  /** How its directory differs now: `added /path`, `changed /path`, `removed /path`. */
  readonly changes: readonly string[];
}

/** Characters of output that are kept. */
const MAX_OUTPUT = 1 << 20;

/**
 * Runs a script in a guest without disk and network. The only thing that it can change is a fork of
 * `base`, in this process's memory, which is thrown away.
 */
async function runInSandbox(base: MemfsVolume, script: string, limits: Limits): Promise<Outcome> {
  const folder = mkdtempSync(join(tmpdir(), 'sandbox-'));
  const socketPath = join(folder, 'socket');
  const volume = base.fork({ size: limits.size, inodes: limits.files });
  const daemon = await serve({ socket: socketPath, tag: 'work', backend: volume.backend });
  const late = AbortSignal.timeout(limits.seconds * 1000);
  let output = '';
  const collect = (): Writable =>
    new Writable({
      write(part: Buffer, _encoding, done) {
        output += part.toString().slice(0, MAX_OUTPUT - output.length);
        done();
      },
    });
  let code: number | undefined;
  try {
    const shares = [{ tag: 'work', socketPath, mountPoint: '/work', readOnly: false }];
    const guest = await Guest.boot({ shares, signal: late });
    try {
      code = await guest.run(['sh', '-c', script], { stdout: collect(), stderr: collect() });
      await guest.shutdown();
    } finally {
      guest.kill();
    }
  } catch (error) {
    if (!late.aborted) throw error;
  } finally {
    await daemon.close();
    rmSync(folder, { recursive: true });
  }
  const changes = Array.from(volume.changes(), ({ kind, path }) => `${kind} ${path}`).sort();
  volume.discard();
  return { code, output, changes };
}

const [directory, file] = process.argv.slice(2);
if (directory === undefined || file === undefined) {
  process.stderr.write('usage: sandbox.js DIRECTORY SCRIPT\n');
  process.exit(2);
}

// Read once; every sandbox is a fork that shares its memory.
const base = new MemfsVolume();
await base.load(directory);

const limits = { seconds: 120, size: 256 << 20, files: 10_000 };
const { code, output, changes } = await runInSandbox(base, readFileSync(file, 'utf8'), limits);
process.stdout.write(output);
process.stdout.write(code === undefined ? '\ntime is up\n' : `\nexit code ${code}\n`);
process.stdout.write(changes.map((change) => `${change}\n`).join(''));
