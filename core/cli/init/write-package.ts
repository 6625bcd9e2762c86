import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import type { Command } from 'commander';
import { UsageError } from '../../backend/index.js';
import { packageFiles, type PackageOptions } from './package-files.js';

/** What npm takes for a name. */
const NAME = /^[a-z0-9][a-z0-9._-]{0,213}$/;

/** Gives a command the words and flags of `init`, and has it write a package. */
export function writesPackage(command: Command, versions: PackageOptions['versions']): void {
  command
    .description('write a package with a backend of your own to begin with, its tests and its scripts')
    .argument('<DIRECTORY>', 'a new or empty directory; its last part is the name of the package')
    .option('--javascript', 'JavaScript instead of TypeScript')
    .action((directory: string, values: { readonly javascript?: boolean }) =>
      writePackage(directory, values.javascript !== true, versions),
    );
}

function writePackage(directory: string, isTypeScript: boolean, versions: PackageOptions['versions']): void {
  const folder = resolve(directory);
  const name = basename(folder);
  if (!NAME.test(name))
    throw new UsageError(`${directory}: npm takes no ${name} for a name: small letters, digits, ., _ and -`);
  if (existsSync(folder) && readdirSync(folder).length > 0)
    throw new UsageError(`${directory}: is not empty; name a new directory`);
  const files = packageFiles({ name, isTypeScript, versions });
  for (const [path, content] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), content, { flag: 'wx' });
    process.stdout.write(`${join(directory, path)}\n`);
  }
  process.stdout.write(`\nGo on with: cd ${directory} && npm install && npm test\n`);
  process.stdout.write(
    '(with a package of virtiofs-kit that is not from the registry: npm install -D /path/to/it first)\n',
  );
}
