import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { isMainThread } from 'node:worker_threads';
import { CONFINED } from '../plugins/confinement-claim.js';
import { inlineMore } from '../plugins/v8-inlining.js';
import * as codeCache from './code-cache.js';

/*
 * Begins the program that `npm run build` has joined (test/package/bundle.ts), in the place of
 * Node's own loader: that takes about a millisecond a file, and keeps no compiled code before
 * Node 22. Parts are functions, many in one file, and are called when one that imports them is.
 */

/** A part: what one of esbuild's chunks is, as a function that returns what it exports. */
type Part = (
  load: (part: string) => unknown,
  given: (module: string, name?: string) => unknown,
  loadLater: (part: string) => Promise<unknown>,
  importOther: (specifier: string) => Promise<unknown>,
  url: string,
  require: NodeJS.Require,
) => unknown;

/** The program as it was joined. */
interface Joined {
  /** The URL of the file of which this module is a part. */
  readonly url: string;
  /** The file that has a part, beside this one. */
  readonly files: Readonly<Record<string, string>>;
  /** Modules that are not joined, since others import the same ones. */
  readonly modules: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

/** What the program's other files ask for. */
interface Parts {
  /** A part's exports, or what a program's part returns. It is loaded with those it imports. */
  readonly load: (part: string) => unknown;
  /** A module that is not joined, or one of its exports. */
  readonly given: (module: string, name?: string) => unknown;
}

/** A script cannot import, but whoever loads it can. */
const importOther = (specifier: string): Promise<unknown> => import(specifier);

/** Begins. To be called once, when nothing else of the program is loaded. */
export default function partsOf({ url, files, modules }: Joined): Parts {
  if (isMainThread) inlineMore();
  codeCache.useCodeCache(fileURLToPath(url), isMainThread && process.env[CONFINED] === undefined);
  const require = createRequire(url);
  const parts = new Map<string, Part>();
  const loaded = new Map<string, unknown>();
  const given: Parts['given'] = (module, name) => {
    const exports = module === 'code-cache' ? codeCache : (modules[module] ?? (require(module) as object));
    return name === undefined ? exports : exports[name as keyof typeof exports];
  };
  const read = (file: string): void => {
    const path = fileURLToPath(new URL(file, url));
    // Node's own loader knows of source maps, where somebody wants them.
    const exports = process.sourceMapsEnabled
      ? (require(path) as object)
      : (codeCache.compile(path, readFileSync(path, 'latin1')).runInThisContext() as object);
    for (const [part, body] of Object.entries<Part>(exports as Record<string, Part>)) parts.set(part, body);
  };
  const load: Parts['load'] = (part) => {
    if (loaded.has(part)) return loaded.get(part);
    if (!parts.has(part)) read(files[part]!);
    const exports = parts.get(part)!(load, given, loadLater, importOther, url, require);
    loaded.set(part, exports);
    return exports;
  };
  // As an import, it throws later. What is no part is a module in a file of that name.
  const loadLater = async (part: string): Promise<unknown> =>
    files[part] === undefined ? import(new URL(part, url).href) : load(part);
  return { load, given };
}
