import { readFileSync, realpathSync } from 'node:fs';
import { sandbox } from 'virtiofs-kit/sandbox';

/*
 * Runs a script that nobody trusts among this host's programs, in a directory of this host, and
 * prints what it did. Nothing of this host changes:
 *
 *     node sandbox.js DIRECTORY script.sh [uml]
 *
 * `uml` is User-Mode Linux: quicker where there is no KVM, and not for what nobody trusts.
 */

/** What a script may take: seconds, bytes and files that it writes. */
const limits = { timeout: 120, size: 256 << 20, files: 10_000 };

const [directory, file, accelerator] = process.argv.slice(2);
if (directory === undefined || file === undefined) {
  process.stderr.write('usage: sandbox.js DIRECTORY SCRIPT [uml]\n');
  process.exit(2);
}

const box = await sandbox({
  ...limits,
  cwd: realpathSync(directory),
  accelerator: accelerator === 'uml' ? 'uml' : undefined,
});
try {
  const script = await box.spawn(['sh', '-s'], { stdin: readFileSync(file) });
  script.stdout.pipe(process.stdout, { end: false });
  script.stderr.pipe(process.stderr, { end: false });
  process.stdout.write(`exit code ${await script.exitCode}\n`);
  for (const { kind, path } of await box.diff()) process.stdout.write(`${kind} ${path}\n`);
} catch (error) {
  if (!(error instanceof DOMException && error.name === 'TimeoutError')) throw error;
  process.stdout.write('time is up\n');
} finally {
  await box.stop();
}
