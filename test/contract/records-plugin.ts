import { z } from 'zod';
import memfs from '../../backends/memfs/index.js';
import { type Backend, definePlugin, FsError, wrap } from '../../core/backend/index.js';

/** Tables and their records: no file in the root, names `*.json`, each content one JSON value. */
export default definePlugin({
  name: 'records',
  description: 'directories of JSON files',
  options: z.strictObject({}),
  async create(_options, environment) {
    const inner = (await memfs.create(memfs.options.parse({}), environment)) as Backend<object, object>;
    let root: object;
    const checkName = (parent: object, name: string): void => {
      if (parent === root || !name.endsWith('.json')) throw FsError.of('EPERM');
    };
    return wrap<object, object>(
      inner,
      {
        async mount(next, host) {
          root = await next(host);
          const context = { uid: 0, gid: 0, pid: 0, umask: 0, groups: [], aborted: false } as never;
          await inner.mkdir!(root, 'users', 0o755, context);
          return root;
        },
        create(next, parent, name, ...rest) {
          checkName(parent, name);
          return next(parent, name, ...rest);
        },
        mknod(next, parent, name, ...rest) {
          checkName(parent, name);
          return next(parent, name, ...rest);
        },
        rename(next, parent, name, newParent, newName, ...rest) {
          if (name.endsWith('.json')) checkName(newParent, newName);
          return next(parent, name, newParent, newName, ...rest);
        },
        write(next, node, file, buffer, offset, ...rest) {
          const text = Buffer.concat([...buffer.segments]).toString();
          if (offset !== 0) throw FsError.of('EINVAL');
          JSON.parse(text);
          return next(node, file, buffer, offset, ...rest);
        },
      },
      { without: ['symlink', 'link', 'tmpfile', 'save', 'restore', 'key', 'resolve'] },
    );
  },
});
