#!/usr/bin/env node
import { createRequire } from 'node:module';
import { Command } from 'commander';
import { report, USAGE } from '../report.js';
import { writesPackage } from './write-package.js';

/*
 * What `npm create virtiofs-backend` runs. It has a package of its own, with nothing to install:
 * `npm run build` joins it. Its version is the kit's.
 */

const own = createRequire(import.meta.url)('./package.json') as {
  readonly name: string;
  readonly version: string;
  readonly config: { readonly zod: string };
};
const program = new Command(own.name)
  .version(own.version, '-V, --version', 'print the version')
  .exitOverride(({ exitCode }) => process.exit(exitCode === 0 ? 0 : USAGE));
writesPackage(program, { kit: own.version, zod: own.config.zod });
try {
  program.parse();
} catch (error) {
  process.exitCode = report(error, false, own.name);
}
