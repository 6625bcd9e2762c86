import { join } from 'node:path';
import { API, type Project } from 'typescript/unstable/sync';
import { root } from './documents.js';

/** Has the compiler's view of this repository's sources looked into. */
export function withCompiler<T>(look: (project: Project) => T): T {
  const api = new API({ cwd: root });
  try {
    const config = join(root, 'tsconfig.json');
    return look(api.updateSnapshot({ openProjects: [config] }).getProject(config)!);
  } finally {
    api.close();
  }
}
