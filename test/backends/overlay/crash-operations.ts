import { mkdirSync, writeFileSync, linkSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { type Backend, FileType, OpenFlags, RenameFlags } from '../../../core/backend/index.js';
import { overlay as createOverlay } from '../../../backends/overlay/index.js';
import { passthrough } from '../../../backends/passthrough/backend.js';
import { options } from '../../../backends/passthrough/options.js';
import { defaults, host, Paths, root } from './support.js';

/** Changes that a crash may interrupt, each one call of the contract. */
export const operations: Record<string, (paths: Paths) => Promise<unknown>> = {
  'copy-up of a file': (paths) => openToWrite(paths, '/dir/file'),
  "copy-up of a file's metadata": (paths) =>
    paths.at('/dir/file', (node) => paths.backend.setattr!(node, { mode: 0o600 }, undefined, root)),
  "copy-up of a file's content": (paths) => openToWrite(paths, '/private'),
  'cut of a file without content': (paths) =>
    paths.at('/private', (node) => paths.backend.setattr!(node, { size: 7 }, undefined, root)),
  'truncation of a file without content': (paths) =>
    paths.at('/private', (node) => paths.backend.setattr!(node, { size: 0 }, undefined, root)),
  'rename of a file without content': (paths) => paths.rename('/private', '/dir/moved'),
  'link of a file without content': (paths) => paths.link('/private', '/dir/linked'),
  'copy-up of a hard-linked file': (paths) =>
    paths.at('/dir/one', (node) => paths.backend.setattr!(node, { mode: 0o600 }, undefined, root)),
  'copy-up of a directory': (paths) =>
    paths.at('/dir/sub', (node) => paths.backend.setattr!(node, { mode: 0o700 }, undefined, root)),
  'unlink of a lower file': (paths) => paths.unlink('/dir/file'),
  'unlink of a copied-up file': (paths) => paths.unlink('/changed'),
  'rmdir of a copied-up directory': (paths) => paths.rmdir('/emptied'),
  'rename of a lower file': (paths) => paths.rename('/dir/file', '/moved'),
  'rename of a lower directory': (paths) => paths.rename('/dir', '/moved'),
  'rename over a lower file': (paths) => paths.rename('/changed', '/dir/file'),
  'rename over an emptied directory': (paths) => paths.rename('/own', '/emptied'),
  'exchange of a file and a directory': (paths) => paths.rename('/changed', '/dir', RenameFlags.EXCHANGE),
  'mkdir over a whiteout': (paths) => paths.mkdir('/gone'),
};

/** Copies the content up, and changes nothing else. */
function openToWrite(paths: Paths, path: string): Promise<void> {
  return paths.at(path, async (node) => {
    const { file } = await paths.backend.open!(node, OpenFlags.READ_WRITE, root);
    await paths.backend.release!(node, file);
  });
}

/** Operations that do not change what the union shows. */
export const INVISIBLE: ReadonlySet<string> = new Set(['copy-up of a file', "copy-up of a file's content"]);

/** Makes layers that have something for each operation. */
export function fill(directory: string): void {
  const lower = join(directory, 'lower');
  mkdirSync(join(lower, 'dir/sub'), { recursive: true });
  mkdirSync(join(lower, 'emptied'));
  writeFileSync(join(lower, 'emptied/x'), 'x');
  writeFileSync(join(lower, 'dir/file'), 'content '.repeat(1000));
  writeFileSync(join(lower, 'dir/one'), 'linked');
  linkSync(join(lower, 'dir/one'), join(lower, 'dir/two'));
  writeFileSync(join(lower, 'dir/sub/deep'), 'deep');
  symlinkSync('file', join(lower, 'dir/link'));
  writeFileSync(join(lower, 'changed'), 'old');
  writeFileSync(join(lower, 'gone'), 'gone');
  writeFileSync(join(lower, 'private'), 'private content');
  mkdirSync(join(directory, 'upper'));
}

/** Makes the changes in the union that come before the operation. */
export async function prepare(paths: Paths): Promise<void> {
  await paths.write('/changed', 'new');
  await paths.unlink('/emptied/x');
  await paths.unlink('/gone');
  await paths.mkdir('/own');
  await paths.write('/own/inside', 'inside');
  await paths.at('/private', (node) => paths.backend.setattr!(node, { mode: 0o600 }, undefined, root));
}

export function mountOurs(directory: string, reached: (step: string) => void): Promise<Paths> {
  const share = (name: string): Backend =>
    passthrough(
      options.parse({ sharedDir: join(directory, name), trustedXattrs: 'allow' }),
      host.log,
    ) as Backend;
  const overlay = createOverlay({
    ...defaults,
    upper: share('upper'),
    lowers: [share('lower')],
    upperPath: ['root'],
    workPath: ['work'],
    reached,
  });
  return Paths.mount(overlay as Backend);
}

/** Every path with type, permissions, links and content. */
export async function view(paths: Paths, path = ''): Promise<Record<string, string>> {
  const shown: Record<string, string> = {};
  for (const name of await paths.names(path)) {
    const child = `${path}/${name}`;
    const { mode, nlink = 1 } = await paths.stat(child);
    const type = mode & FileType.MASK;
    if (type === FileType.DIRECTORY) {
      shown[child] = mode.toString(8);
      Object.assign(shown, await view(paths, child));
    } else if (type === FileType.REGULAR) {
      shown[child] = `${mode.toString(8)} ${nlink} ${await paths.read(child)}`;
    } else shown[child] = `-> ${await paths.at(child, (node) => paths.backend.readlink!(node, root))}`;
  }
  return shown;
}
