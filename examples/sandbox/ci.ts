import { readFileSync } from 'node:fs';
import { sandbox } from 'virtiofs-kit/sandbox';

/*
 * Runs a job of continuous integration: a script among this host's programs and files, which change
 * nothing here. What it keeps in /var/cache/job is in a bucket, where the next job finds it, on
 * this host or another one:
 *
 *     node ci.js SCRIPT '{"bucket":"cache","prefix":"main/"}' [uml]
 *
 * The options are those of the backend `s3`; credentials come from the environment. This program
 * ends with the script's exit code, after telling what the job has made.
 */

const CACHE = '/var/cache/job';

const [file, options, accelerator] = process.argv.slice(2);
if (file === undefined || options === undefined) {
  process.stderr.write('usage: ci.js SCRIPT OPTIONS-OF-S3 [uml]\n');
  process.exit(2);
}

const box = await sandbox({
  timeout: 3600,
  mounts: { [CACHE]: { source: { type: 's3', ...(JSON.parse(options) as object) } } },
  env: { CI: 'true' },
  accelerator: accelerator === 'uml' ? 'uml' : undefined,
});
try {
  const job = await box.spawn(['sh', '-s'], { stdin: readFileSync(file) });
  job.stdout.pipe(process.stdout, { end: false });
  job.stderr.pipe(process.stderr, { end: false });
  process.exitCode = await job.exitCode;
  for (const { kind, path } of await box.diff())
    if (!path.startsWith(CACHE)) process.stdout.write(`${kind} ${path}\n`);
} finally {
  // What is in the cache is in the bucket when this returns.
  await box.stop();
}
