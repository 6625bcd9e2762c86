import { createRequire } from 'node:module';
import type { Command } from 'commander';
import { writesPackage } from '../init/index.js';

/** `init`: writes a package with a backend that works. */
export function addInit(program: Command): void {
  const own = createRequire(import.meta.url)('virtiofs-kit/package.json') as {
    readonly version: string;
    readonly dependencies: { readonly zod: string };
  };
  writesPackage(program.command('init'), { kit: own.version, zod: own.dependencies.zod });
}
