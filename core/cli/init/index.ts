/**
 * What `virtiofs-kit init` and `npm create virtiofs-backend` write: a package with a backend that
 * works, its tests and its scripts.
 *
 * - `write-package.ts`: the words and flags of both. `package-files.ts`: the files, by name.
 *   `source.ts`: the backend and its test.
 * - `create.ts`: the program of the package `create-virtiofs-backend`.
 */
export { writesPackage } from './write-package.js';
