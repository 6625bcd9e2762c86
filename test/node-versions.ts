import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/*
 * Runs chosen test files on every line of Node that is supported: what confines a daemon depends on
 * the system calls that Node and libuv make, and those change.
 *
 *   node dist/test/node-versions.js [WORD…]     words as of run.js
 */

/** Exact versions of npm's package of the program. */
const VERSIONS = ['20.20.2', '22.23.5', '24.22.3', '26.12.1'] as const;
const DEFAULT = [
  'core/cli/commands/serve.confined',
  'passthrough/backend.confined',
  'mount/host-mount.own-mounts',
  'guest/confined',
  // A plugin inside, capabilities by export, a save to a full disk, foreign descriptors.
  'hostile/outsider',
  'passthrough/operations/xattrs',
  'hostile/saves',
  'hostile/host-faults',
];

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
const words = process.argv.length > 2 ? process.argv.slice(2) : DEFAULT;
const failed: string[] = [];
for (const version of VERSIONS) {
  const node = nodeOf(version);
  console.log(`Node ${version}`);
  const runner = join(import.meta.dirname, 'run.js');
  const { status } = spawnSync(node, [runner, ...words], { stdio: 'inherit' });
  if (status !== 0) failed.push(version);
}
console.log(failed.length === 0 ? 'all versions passed' : `failed on Node ${failed.join(', ')}`);
process.exitCode = failed.length === 0 ? 0 : 1;

/** The program of a version, installed at first use. */
function nodeOf(version: string): string {
  const name = `node-linux-${process.arch}`;
  const folder = join(root, '.cache', 'nodes', version);
  const node = join(folder, 'node_modules', name, 'bin', 'node');
  if (!existsSync(node)) {
    mkdirSync(folder, { recursive: true });
    const install = [
      'install',
      '--prefix',
      folder,
      '--no-save',
      '--no-audit',
      '--no-fund',
      '--ignore-scripts',
    ];
    execFileSync('npm', [...install, '--loglevel=error', `${name}@${version}`], { stdio: 'inherit' });
  }
  return node;
}
