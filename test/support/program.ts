import { fileURLToPath } from 'node:url';

/** @returns the path of a program of the package, as it has it: joined into few files. */
const joined = (name: string): string => fileURLToPath(new URL(`../../program/${name}.js`, import.meta.url));

export const program = joined('virtiofs-kit');
export const mountHelper = joined('mount.virtiofs-kit');

/** The same from its modules, for a backend of tests that changes what these do. */
export const modules = fileURLToPath(new URL('../../core/cli/main.js', import.meta.url));
