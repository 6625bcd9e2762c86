import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { build, type Plugin } from 'esbuild';
import { buildCreate } from './create.js';
import { common, licenses, root } from './joined.js';

/*
 * Joins the compiled program, its backends and what they use of npm's packages into few files,
 * `dist/program`: a daemon's start is mostly the loading of modules, of which there are some 650
 * otherwise. `npm run build` runs it.
 *
 * Not joined: core/backend, since a backend of an author's own must find the same errors and the
 * same registers as the program; and koffi, which is a native library.
 *
 * Not JavaScript either: what is preloaded into User-Mode Linux (core/guest/uml-idle.c), which is
 * left out where no C compiler is.
 *
 * Beside it the package `create-virtiofs-backend`, in `dist/create`.
 */

const dist = join(root, 'dist');
const outdir = join(dist, 'program');
const contract = join(dist, 'core', 'backend');

/** The programs, and the files that threads begin with, which lie beside who starts them. */
const ENTRIES = {
  'virtiofs-kit': 'core/cli/main.js',
  'virtiofs-kit-virtiofsd': 'core/cli/virtiofsd/main.js',
  'mount.virtiofs-kit': 'core/cli/mount-helper/main.js',
  worker: 'core/queue-threads/worker.js',
  'io-thread': 'core/system/batches/io-thread.js',
};

/** Leaves imports of the contract as they are, seen from where the result lies. */
const contractStays: Plugin = {
  name: 'contract-stays',
  setup({ onResolve }) {
    onResolve({ filter: /^\./ }, ({ path, resolveDir }) => {
      const file = join(resolveDir, path);
      if (dirname(file) !== contract) return undefined;
      return { path: relative(outdir, file), external: true };
    });
  },
};

rmSync(outdir, { recursive: true, force: true });
const { metafile } = await build({
  ...common,
  entryPoints: Object.fromEntries(Object.entries(ENTRIES).map(([name, file]) => [name, join(dist, file)])),
  outdir,
  splitting: true,
  external: ['koffi'],
  plugins: [contractStays],
  chunkNames: '[name]-[hash]',
  sourcemap: true,
});
for (const name of ['virtiofs-kit', 'virtiofs-kit-virtiofsd', 'mount.virtiofs-kit'])
  chmodSync(join(outdir, `${name}.js`), 0o755);
writeFileSync(join(outdir, 'LICENSES.txt'), licenses(metafile));

compilePreloaded(join(dist, 'core', 'guest'));

await buildCreate(join(dist, 'create'));

/** The kernel that it is for is for one architecture. */
function compilePreloaded(folder: string): void {
  if (process.arch !== 'x64') return;
  const library = join(folder, 'uml-idle.so');
  const source = join(root, 'core', 'guest', 'uml-idle.c');
  const words = ['-O2', '-Wall', '-Werror', '-shared', '-fPIC', '-s', '-o', library, source];
  const { error, status } = spawnSync('cc', words, { stdio: 'inherit' });
  if (error !== undefined)
    return void console.error('no C compiler: guests of User-Mode Linux sleep through interrupts');
  if (status !== 0) process.exit(1);
  copyFileSync(library, join(outdir, 'uml-idle.so'));
}
