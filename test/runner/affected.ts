import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * The tests that a change may affect: those that import a changed file, or import what imports it.
 * Nearest first, so that the tests that are about the file come before those that merely use it.
 *
 * Paths are of built files. A test that runs the program as another process imports nothing of it,
 * and is not found.
 */
export function affectedTests(tests: readonly string[], changed: ReadonlySet<string>): string[] {
  const imports = new Map<string, readonly string[]>();
  const importsOf = (file: string) => {
    let found = imports.get(file);
    if (found === undefined) imports.set(file, (found = readImports(file)));
    return found;
  };
  const distances = new Map<string, number>();
  for (const test of tests) {
    const distance = distanceTo(test, changed, importsOf);
    if (distance !== undefined) distances.set(test, distance);
  }
  return [...distances.keys()].sort((a, b) => distances.get(a)! - distances.get(b)!);
}

/** How many imports lead from a file to the nearest of the changed ones. */
function distanceTo(
  from: string,
  changed: ReadonlySet<string>,
  importsOf: (file: string) => readonly string[],
): number | undefined {
  const seen = new Set([from]);
  let at = [from];
  for (let distance = 0; at.length > 0; distance++) {
    if (at.some((file) => changed.has(file))) return distance;
    const next = new Set(at.flatMap(importsOf));
    at = [...next].filter((file) => !seen.has(file));
    for (const file of at) seen.add(file);
  }
  return undefined;
}

function readImports(file: string): string[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    return [];
  }
  const found = text.matchAll(/(?:\bfrom\s+|\bimport\s*\(?\s*)'(\.[^']*)'/g);
  return [...found].map(([, path]) => join(dirname(file), path!));
}
