import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';

/**
 * The folders from which a module and its imports are loaded: that of its package, or else its own,
 * and all `node_modules` above it (an installed package has its dependencies beside it).
 */
export function programFolders(file: string): string[] {
  const above = [dirname(file)];
  for (let folder = above[0]!; folder !== '/';) above.push((folder = dirname(folder)));
  const own = above.find((folder) => existsSync(join(folder, 'package.json'))) ?? dirname(file);
  return [own, ...above.map((folder) => join(folder, 'node_modules')).filter((folder) => existsSync(folder))];
}
