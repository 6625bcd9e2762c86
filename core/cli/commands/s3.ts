import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import {
  check,
  describeOptions,
  Services,
  s3Administration,
  toFlag,
  type BackendRegistry,
} from '../../plugins/index.js';
import { addLogOptions, servicesOf } from '../environment.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

/**
 * `s3 status|flush|recover|export`: what a bucket's mount keeps on the local disk, running or dead.
 */
export async function addS3(
  program: Command,
  registry: BackendRegistry,
  argv: readonly string[],
): Promise<void> {
  if (argv[0] !== 's3') {
    // The S3 client takes a while to load, so its options are read only when they are asked for.
    program
      .command('s3')
      .description('show, upload and recover what mounts of buckets keep in their journals');
    return;
  }
  const { options } = await registry.load('s3');
  const described = describeOptions(options);
  const group = program.command('s3').description('show, upload and recover what mounts of buckets keep');
  const place = described.filter(({ name }) => ['bucket', 'prefix', 'endpoint', 'cacheDir'].includes(name));

  const folder = async (values: Values): Promise<string> => {
    const given = givenOptions(described, values);
    if (typeof given['cacheDir'] === 'string') return given['cacheDir'];
    if (typeof given['bucket'] !== 'string')
      throw new UsageError('give --cache-dir, or --bucket as for the mount');
    const { folderOf } = await s3Administration();
    const { bucket, prefix = '', endpoint } = given as { bucket: string; prefix?: string; endpoint?: string };
    return folderOf({ bucket, prefix, endpoint, cacheDir: undefined });
  };
  const command = (name: string, description: string): Command => {
    const made = group.command(name).description(description);
    for (const option of place) addFlag(made, { ...option, required: false });
    return made;
  };

  command('status', 'show what is not uploaded yet, lost races, and the counters of a running mount').action(
    async (values: Values) => print(await (await s3Administration()).status(await folder(values))),
  );
  command('flush', 'have the running mount upload everything, and wait').action(async (values: Values) =>
    print(await (await s3Administration()).flush(await folder(values))),
  );
  command('export', 'write data that lost a race, or is damaged, as plain files')
    .argument('<DIR>', 'where to write them')
    .option('--remove', 'remove them from the cache folder afterwards')
    .action(async (directory: string, values: Values) => {
      const { exportAside } = await s3Administration();
      print(await exportAside(await folder(values), directory, values['remove'] === true));
    });
  const recovery = group
    .command('recover')
    .description('upload what a dead process left; the same options as its mount');
  for (const option of described) addFlag(recovery, option);
  addLogOptions(recovery);
  recovery.action(async (values: Values) => {
    const given = givenOptions(described, values);
    check(options, given, '', ([key]) => `--${toFlag(String(key))}`);
    const log = servicesOf(values, {}, registry).get(Services.Logger);
    print(await (await s3Administration()).recover(given, log));
  });
}

function print(report: object): void {
  process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
}
