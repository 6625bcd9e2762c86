import { spawnSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { build } from 'esbuild';
import { buildCreate } from './create.js';
import { common, licenses, root } from './joined.js';
import {
  canBePart,
  chunksOf,
  givenModules,
  importedBy,
  lateEntries,
  writeModule,
  writePartAsModule,
  writeParts,
} from './parts.js';

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

const PROGRAMS = {
  'virtiofs-kit': 'core/cli/main.js',
  'virtiofs-kit-virtiofsd': 'core/cli/virtiofsd/main.js',
  'mount.virtiofs-kit': 'core/cli/mount-helper/main.js',
};
/** What threads begin with, beside who starts them. */
const THREADS = { worker: 'core/queue-threads/worker.js', 'io-thread': 'core/system/batches/io-thread.js' };
const ENTRIES = { ...PROGRAMS, ...THREADS };

/** What the program loads until it executes itself anew to be confined, and what it loads then. */
const FIRST = [
  ...['main', 'virtiofsd/main', 'program', 'program-arguments', 'commands/serve'].map(
    (file) => `core/cli/${file}.js`,
  ),
  'core/cli/virtiofsd/program.js',
  'backends/passthrough/index.js',
];
const SECOND = [
  ...['main', 'virtiofsd/main', 'serving/planned-start'].map((file) => `core/cli/${file}.js`),
  'backends/passthrough/backend.js',
];

const codeCache = join(dist, 'core', 'cli', 'code-cache.js');
rmSync(outdir, { recursive: true, force: true });
mkdirSync(outdir);
const { metafile, outputFiles } = await build({
  ...common,
  banner: {},
  define: { 'import.meta.url': '$url' },
  entryPoints: {
    ...Object.fromEntries(Object.entries(ENTRIES).map(([name, file]) => [name, join(dist, file)])),
    ...lateEntries,
  },
  outdir,
  splitting: true,
  plugins: [givenModules(contract, codeCache, outdir)],
  chunkNames: '[name]-[hash]',
  sourcemap: 'external',
  // Its ES modules, where CommonJS asks for them, would have no exports before that.
  alias: { tslib: join(root, 'node_modules/tslib/tslib.js') },
  write: false,
});
const chunks = chunksOf(outputFiles);
const loadedBy = (entries: readonly string[]): Set<string> => {
  const outputs = Object.entries(metafile.outputs);
  const names = entries.map((entry) => {
    const found = outputs.find(([, { entryPoint }]) => entryPoint === relative(root, join(dist, entry)));
    if (found === undefined) throw new Error(`${entry} begins no part`);
    return basename(found[0]);
  });
  return importedBy(chunks, names);
};
const first = loadedBy(FIRST);
const second = loadedBy(SECOND);
const files = new Map<string, string>();
for (const name of chunks.keys()) {
  const isEarly = first.has(name) || second.has(name);
  if (canBePart(chunks, name)) {
    const together = first.has(name) ? (second.has(name) ? 'both' : 'command-line') : 'serving';
    files.set(name, `${isEarly ? together : basename(name, '.js')}.cjs`);
  } else if (isEarly) {
    throw new Error(`${name}, which a start loads, cannot be a part`);
  }
}
for (const file of new Set(files.values())) {
  const names = [...chunks.keys()].filter((name) => files.get(name) === file);
  writeParts(join(outdir, file), chunks, names);
}
for (const [name, chunk] of chunks) {
  if (files.has(name)) continue;
  writeModule(join(outdir, name), chunk);
  for (const [, wanted] of chunk.text.matchAll(/"\.\/([^"]+\.js)"/g)) {
    if (files.has(wanted!)) writePartAsModule(join(outdir, wanted!), wanted!, chunks.get(wanted!)!);
  }
}

const modules = Object.keys(metafile.inputs)
  .filter((path) => path.startsWith(`given:${contract}/`))
  .map((path) => relative(outdir, path.slice('given:'.length)));
const table = [
  'url:import.meta.url',
  `files:${JSON.stringify(Object.fromEntries(files))}`,
  `modules:{${modules.map((path, i) => `${JSON.stringify(path)}:m${i}`).join(',')}}`,
];
await build({
  ...common,
  banner: {},
  stdin: {
    contents: [
      ...modules.map((path, i) => `import * as m${i} from ${JSON.stringify(path)};`),
      `import partsOf from ${JSON.stringify(join(dist, 'core/cli/program-parts.js'))};`,
      `export const { load, given } = partsOf({ ${table.join(',')} });`,
    ].join('\n'),
    resolveDir: outdir,
  },
  external: ['../core/backend/*'],
  outfile: join(outdir, 'loader.js'),
});
for (const name of Object.keys(ENTRIES)) {
  const isProgram = Object.hasOwn(PROGRAMS, name);
  const path = join(outdir, `${name}.js`);
  const head = isProgram ? '#!/usr/bin/env node\n' : '';
  writeFileSync(path, `${head}import{load}from'./loader.js';\nawait load('${name}.js');\n`);
  if (isProgram) chmodSync(path, 0o755);
}
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
