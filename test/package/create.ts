import { chmodSync, copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { common, licenses, root } from './joined.js';

const README = `# create-virtiofs-backend

\`npm create virtiofs-backend my-backend\` writes a package with a backend for
[virtiofs-kit](https://www.npmjs.com/package/virtiofs-kit): its tests, and the scripts that try it in a guest and mount it.
\`npm create virtiofs-backend my-backend -- --javascript\` writes it in JavaScript.
`;

/** Makes the package `create-virtiofs-backend`, one file that needs nothing. */
export async function buildCreate(folder: string): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  const { metafile: used } = await build({
    ...common,
    entryPoints: [join(root, 'dist/core/cli/init/create.js')],
    outfile: join(folder, 'create.js'),
  });
  chmodSync(join(folder, 'create.js'), 0o755);
  copyFileSync(join(root, 'LICENSE'), join(folder, 'LICENSE'));
  writeFileSync(join(folder, 'LICENSES.txt'), licenses(used));
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(createPackage(), undefined, 2)}\n`);
  writeFileSync(join(folder, 'README.md'), README);
}

function createPackage(): object {
  const { version, license, os, engines, dependencies } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  ) as Readonly<Record<string, Readonly<Record<string, string>> | undefined>>;
  return {
    name: 'create-virtiofs-backend',
    version,
    description: 'Writes a package with a backend for virtiofs-kit',
    license,
    type: 'module',
    bin: { 'create-virtiofs-backend': 'create.js' },
    os,
    engines,
    config: { zod: dependencies!['zod'] },
  };
}
