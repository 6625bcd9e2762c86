import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { UsageError } from '../backend/index.js';
import type { ArchiveEntry } from './cpio.js';
import { findProgram } from './programs.js';

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;

/**
 * Programs of this host for a guest's initial root file system: each in `/bin`, and the shared
 * libraries that ldd(1) names where the host has them. What a program opens beside these it lacks.
 * @param names names in PATH, or paths.
 * @throws UsageError if there is no such program.
 */
export function packPrograms(names: readonly string[]): ArchiveEntry[] {
  const entries = new Map<string, ArchiveEntry>();
  const add = (entry: ArchiveEntry): void => {
    for (let folder = dirname(entry.path); folder !== '.'; folder = dirname(folder))
      if (!entries.has(folder)) entries.set(folder, { path: folder, mode: DIRECTORY });
    entries.set(entry.path, entry);
  };
  for (const name of names) {
    const program = findProgram(name);
    if (program === undefined) throw new UsageError(`${name}: no such program on this host`);
    add({ path: `bin/${basename(program)}`, mode: PROGRAM, content: readFileSync(program) });
    for (const library of librariesOf(program))
      add({ path: library.slice(1), mode: PROGRAM, content: readFileSync(library) });
  }
  // A folder comes before what is in it.
  return [...entries.values()].sort((a, b) => a.path.split('/').length - b.path.split('/').length);
}

/** The paths of a program's shared libraries and of its loader; none of a static one. */
function librariesOf(program: string): string[] {
  const { stdout } = spawnSync('ldd', [program], { encoding: 'utf8' });
  return [...(stdout ?? '').matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map(([, path]) => path!);
}
