import { z } from 'zod';
import memfs from '../../backends/memfs/index.js';
import { type Backend, definePlugin, FileType, wrap } from '../../core/backend/index.js';

const never = (): Promise<never> => new Promise(() => undefined);

/**
 * A backend with mistakes by which a caller may never come to an end: each directory has itself in
 * it, files do not end, and neither do releases and the end itself.
 */
export default definePlugin({
  name: 'endless',
  description: 'nothing ends',
  options: z.strictObject({}),
  async create(_options, environment) {
    const inner = (await memfs.create(memfs.options.parse({}), environment)) as Backend<object, object>;
    return wrap<object, object>(inner, {
      lookup: async (next, parent, name, context) =>
        name === 'itself'
          ? { node: parent, attributes: await inner.getattr(parent, undefined, context) }
          : next(parent, name, context),
      readdir: () => [{ name: 'itself', type: FileType.DIRECTORY }],
      read: (_next, _node, _file, buffer) => buffer.length,
      release: never,
      unmount: never,
    });
  },
});
