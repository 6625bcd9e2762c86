/**
 * What `virtiofs-kit init` writes: a package with a backend that works, its tests and its scripts.
 *
 * - `package-files.ts`: the files, by name. `source.ts`: the backend and its test.
 */
export { packageFiles, type PackageOptions } from './package-files.js';
