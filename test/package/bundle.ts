import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type Metafile, type Plugin } from 'esbuild';

/*
 * Joins the compiled program, its backends and what they use of npm's packages into few files,
 * `dist/program`: a daemon's start is mostly the loading of modules, of which there are some 650
 * otherwise. `npm run build` runs it.
 *
 * Not joined: core/backend, since a backend of an author's own must find the same errors and the
 * same registers as the program; and koffi, which is a native library.
 */

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
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
  absWorkingDir: root,
  entryPoints: Object.fromEntries(Object.entries(ENTRIES).map(([name, file]) => [name, join(dist, file)])),
  outdir,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  external: ['koffi'],
  plugins: [contractStays],
  chunkNames: '[name]-[hash]',
  sourcemap: true,
  // What is smaller is read sooner, and V8 keeps all of it in memory. Names stay, for stacks.
  minifyWhitespace: true,
  minifySyntax: true,
  // Node shows the line in which an exception was thrown.
  lineLimit: 160,
  legalComments: 'none',
  metafile: true,
  logLevel: 'warning',
  // Packages in CommonJS ask for modules of Node by it.
  banner: {
    js: "import { createRequire as requireOf } from 'node:module';\nconst require = requireOf(import.meta.url);",
  },
});
for (const name of ['virtiofs-kit', 'virtiofs-kit-virtiofsd', 'mount.virtiofs-kit'])
  chmodSync(join(outdir, `${name}.js`), 0o755);
writeFileSync(join(outdir, 'LICENSES.txt'), licenses(metafile));

/** The licences of the packages that are in the result. */
function licenses({ inputs }: Metafile): string {
  const folders = new Set(
    Object.keys(inputs).flatMap(
      (path) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.slice(0, 1) ?? [],
    ),
  );
  const texts = [...folders].sort().map((folder) => {
    const { name, version, license } = JSON.parse(
      readFileSync(join(root, folder, 'package.json'), 'utf8'),
    ) as { name: string; version: string; license?: string };
    const file = readdirSync(join(root, folder)).find((entry) => /^licen[cs]e/i.test(basename(entry)));
    const text =
      file === undefined || !existsSync(join(root, folder, file))
        ? ''
        : `\n${readFileSync(join(root, folder, file), 'utf8').trim()}\n`;
    return `${name} ${version}: ${license ?? 'see below'}\n${text}`;
  });
  return texts.join(`\n${'-'.repeat(72)}\n\n`);
}
