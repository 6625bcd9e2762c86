import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BuildOptions, Metafile } from 'esbuild';

/** The package's folder. */
export const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));

/** How programs are joined into files. */
export const common = {
  absWorkingDir: root,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  // Without `module`: packages in CommonJS would get ES modules by it, whose exports are not there
  // before they have run.
  conditions: [],
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
} as const satisfies BuildOptions;

/** The licences of the packages that are in the result. */
export function licenses({ inputs }: Metafile): string {
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
