import { writeFileSync } from 'node:fs';
import { isBuiltin, createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Script } from 'node:vm';
import type { BuildResult, Plugin } from 'esbuild';
import { root } from './joined.js';

/*
 * Makes functions of esbuild's chunks, and puts those into one file that a program loads together:
 * see core/cli/program-parts.ts, which calls them.
 */

/** A part's parameters, by the names that its text uses. */
const PARAMETERS = '$load,$given,$chunk,$other,$url,require';

/** Modules of Node that take milliseconds and megabytes, and whose functions few runs call. */
const CALLED_LATE = new Set(['node:child_process', 'node:http', 'node:https', 'node:tls']);
/** Packages that take longer than all else of a start, by the names of the parts that have them. */
const LATE_PACKAGES: Readonly<Record<string, string>> = {
  '@aws-sdk/checksums/crc': 'checksums',
  '@aws-sdk/client-s3': 'sdk',
  undici: 'undici',
};
/** The entry points of these parts, by the parts' names. */
export const lateEntries = Object.fromEntries(
  Object.entries(LATE_PACKAGES).map(([path, part]) => [part, `late:${path}`]),
);

/** How a file of parts begins and ends: a script whose value are the parts, and a module. */
const [BEGIN, END] = ['(typeof module==="object"?module:{}).exports={', '};'];

const NAMED = /^[a-z_$][\w$]*$/i;
const require = createRequire(import.meta.url);

/**
 * Modules that are not joined are asked for by a function: an import of one of Node's own makes an
 * object of all that it exports, which for some takes milliseconds. Large packages that few runs
 * use are joined into parts of their own, which are loaded when something of them is first called
 * or constructed. (Nothing else works of what is imported from these.)
 * @param own the folder whose modules are found as `outdir` sees them.
 * @param loader the module that the loader itself has.
 */
export function givenModules(own: string, loader: string, outdir: string): Plugin {
  return {
    name: 'given-modules',
    setup({ onResolve, onLoad }) {
      onResolve({ filter: /^[^.]/ }, ({ path, kind }) =>
        kind === 'import-statement' && Object.hasOwn(LATE_PACKAGES, path)
          ? { path, namespace: 'late', sideEffects: false }
          : undefined,
      );
      onResolve({ filter: /^[^.]/ }, ({ path, kind, importer }) =>
        kind === 'import-statement' &&
        !importer.includes('/node_modules/') &&
        (isBuiltin(path) || path === 'koffi')
          ? { path, namespace: 'given', sideEffects: false }
          : undefined,
      );
      onResolve({ filter: /^late:/ }, ({ path }) => ({ path: path.slice(5), namespace: 'late-entry' }));
      onLoad({ filter: /./, namespace: 'late-entry' }, ({ path }) => ({
        contents: `const all=require(${JSON.stringify(path)});export{all};`,
        resolveDir: root,
      }));
      onLoad({ filter: /./, namespace: 'late' }, ({ path }) => {
        const all = `$load(${JSON.stringify(`${LATE_PACKAGES[path]!}.js`)}).all`;
        return { contents: calledLate(require(path) as object, all) };
      });
      onResolve({ filter: /^\./ }, ({ path, resolveDir }) => {
        const file = join(resolveDir, path);
        return dirname(file) === own || file === loader
          ? { path: file, namespace: 'given', sideEffects: false }
          : undefined;
      });
      onLoad({ filter: /./, namespace: 'given' }, async ({ path }) => {
        const isOwn = path.startsWith('/');
        const exports = (isOwn ? await import(pathToFileURL(path).href) : require(path)) as object;
        const name = JSON.stringify(path === loader ? 'code-cache' : isOwn ? relative(outdir, path) : path);
        if (CALLED_LATE.has(path)) return { contents: calledLate(exports, `$given(${name})`) };
        const each = Object.keys(exports)
          .filter((key) => NAMED.test(key) && key !== 'default')
          .map((key) => `const _${key}=/* @__PURE__ */ $given(${name},"${key}");export{_${key} as ${key}};`);
        const whole = isOwn ? '' : `export default /* @__PURE__ */ $given(${name});`;
        return { contents: `${whole}\n${each.join('\n')}` };
      });
    },
  };
}

/** A module whose functions and classes get those of another one when they are called. */
function calledLate(exports: object, all: string): string {
  const named = Object.entries(exports).filter(([key]) => NAMED.test(key) && key !== 'default');
  return named
    .map(([key, value]) => {
      const late = /^[A-Z]/.test(key) ? `Reflect.construct(${all}.${key},words)` : `${all}.${key}(...words)`;
      const one =
        typeof value === 'function'
          ? `function(...words){return ${late}}`
          : `/* @__PURE__ */ (()=>${all}.${key})()`;
      return `const _${key}=${one};export{_${key} as ${key}};`;
    })
    .join('\n');
}

interface Chunk {
  readonly imports: readonly string[];
  /** The text before its body, as long as it was in lines and columns. */
  readonly head: string;
  readonly body: string;
  readonly tail: string;
  /** What it exports. */
  readonly names: readonly string[];
  /** As esbuild has written it, with its source map. */
  readonly text: string;
  readonly map: string;
  /** Whether it may be a part: what it exports is there when it has run. */
  readonly isPart: boolean;
  readonly isAsync: boolean;
}

/** Chunks of a build, by the names of their files. */
export function chunksOf(files: NonNullable<BuildResult['outputFiles']>): Map<string, Chunk> {
  const texts = new Map(files.map(({ path, text }) => [path.slice(path.lastIndexOf('/') + 1), text]));
  const names = [...texts.keys()].filter((name) => name.endsWith('.js'));
  return new Map(names.map((name) => [name, chunkOf(name, texts.get(name)!, texts.get(`${name}.map`)!)]));
}

function chunkOf(name: string, source: string, map: string): Chunk {
  const text = source.replace(/^#!.*\n/, '').replace(/\n\/\/# sourceMappingURL=.*\n$/, '');
  const imports: string[] = [];
  const statement = /\s*import\s*(?:(\{[^}]*\})\s*from\s*)?"\.\/([^"]+)";/y;
  let head = '';
  let at = 0;
  for (let found; (found = statement.exec(text)) !== null; at = statement.lastIndex) {
    const [, what, from] = found;
    imports.push(from!);
    const pattern = what === undefined ? '' : `const ${what.replaceAll(/\s+as\s+/g, ':')}=`;
    head += `${pattern.replaceAll('\n', '')}$load("${from!}");`;
  }
  const exported = /export\s*\{([^{}"'`]*)\};\s*$/.exec(text);
  const items = (exported?.[1] ?? '').split(',').map((item) => item.trim().split(/\s+as\s+/));
  const pairs = items
    .filter(([item]) => item !== '')
    .map(([inside, outside = inside]) => [outside!, inside!]);
  const body = text
    .slice(at, exported?.index)
    // As long as what it replaces, so that source maps hold.
    .replaceAll(/\bimport(?=\("\.\/[^"]+"\))/g, '$chunk')
    // A script cannot import; whoever loads it can.
    .replaceAll(/(?<![#.\w$])import(?=\([\w$"'`])/g, '$other')
    .replaceAll(/(?<=\$chunk\(")\.\//g, '');
  const gone = text.slice(0, at).split('\n');
  const padding = '\n'.repeat(gone.length) + ' '.repeat(gone.at(-1)!.length);
  const tail = `\nreturn{${pairs.map((pair) => pair.join(':')).join(',')}};`;
  if (/[^\0-\x7f]/.test(source)) throw new Error(`${name}: not ASCII`);
  const parts = { head: head + padding, body, tail };
  const isAsync = !isScript(functionOf({ ...parts, isAsync: false }));
  // esbuild's `__esm` runs a module when it is first asked for: its exports are set later.
  const isPart = !body.includes('__esm({') && isScript(functionOf({ ...parts, isAsync }));
  return { ...parts, imports, names: pairs.map(([outside]) => outside!), text, map, isPart, isAsync };
}

function functionOf({
  head,
  body,
  tail,
  isAsync,
}: Pick<Chunk, 'head' | 'body' | 'tail' | 'isAsync'>): string {
  return `${isAsync ? 'async' : ''}(${PARAMETERS})=>{${head}${body}${tail}}`;
}

function isScript(text: string): boolean {
  try {
    void new Script(`(${text})`);
    return true;
  } catch {
    return false;
  }
}

/** All chunks that some import before they run, and these themselves. */
export function importedBy(chunks: ReadonlyMap<string, Chunk>, names: readonly string[]): Set<string> {
  const found = new Set<string>();
  const add = (name: string): void => {
    if (found.has(name)) return;
    found.add(name);
    chunks.get(name)!.imports.forEach(add);
  };
  names.forEach(add);
  return found;
}

/** Writes chunks as parts into one file, with its source map. */
export function writeParts(path: string, chunks: ReadonlyMap<string, Chunk>, names: readonly string[]): void {
  let text = `${BEGIN}\n`;
  const sections = names.map((name) => {
    const chunk = chunks.get(name)!;
    const start = `${JSON.stringify(name)}:`;
    // The first line of the chunk is the one after its head.
    const line = text.split('\n').length;
    text += `${start}${functionOf(chunk)},\n`;
    return { offset: { line, column: 0 }, map: JSON.parse(chunk.map) as object };
  });
  const file = path.slice(path.lastIndexOf('/') + 1);
  writeFileSync(path, `${text}${END}\n//# sourceMappingURL=${file}.map\n`);
  writeFileSync(`${path}.map`, JSON.stringify({ version: 3, file, sources: [], sections }));
}

/** Whether it and all that it imports can be parts. */
export function canBePart(chunks: ReadonlyMap<string, Chunk>, name: string): boolean {
  return [...importedBy(chunks, [name])].every((each) => chunks.get(each)!.isPart);
}

/** Before a module that stays one: what esbuild's text takes to be there. */
const MODULE = [
  `import{createRequire as $requireOf}from'node:module';`,
  `import{given as $given}from'./loader.js';`,
  'const require=$requireOf(import.meta.url),$url=import.meta.url;\n',
].join('');

/** Writes a chunk as the module that it is. */
export function writeModule(path: string, { text, map }: Chunk): void {
  const file = path.slice(path.lastIndexOf('/') + 1);
  writeFileSync(path, `${MODULE}${text}\n//# sourceMappingURL=${file}.map\n`);
  const sections = [{ offset: { line: 1, column: 0 }, map: JSON.parse(map) as object }];
  writeFileSync(`${path}.map`, JSON.stringify({ version: 3, file, sources: [], sections }));
}

/** Writes a module that has what a part exports, for modules that import that. */
export function writePartAsModule(path: string, name: string, { names }: Chunk): void {
  const constants = names.map((each) => `${each === 'default' ? '_default' : each}`);
  writeFileSync(
    path,
    `import{load}from'./loader.js';\nconst part=load(${JSON.stringify(name)});\n` +
      names
        .map((each, i) => `const _${constants[i]!}=part.${each};export{_${constants[i]!} as ${each}};\n`)
        .join(''),
  );
}
