/**
 * A kind of backend for tests: passthrough, memfs, or an overlay of two, whose process is killed
 * right after it has carried out something, or in the middle of it. That happens once for each name
 * (or first letter of written data) that begins with `!`, so that the process that follows carries
 * on.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import memfs from '../../backends/memfs/index.js';
import overlay from '../../backends/overlay/index.js';
import passthrough from '../../backends/passthrough/index.js';
import { type Backend, definePlugin, type GuestBuffer, wrap } from '../../core/backend/index.js';

const options = z.strictObject({
  share: z.string().optional().describe('the shared directory; memfs without'),
  lower: z.string().optional().describe('a directory above which the shared one is the upper'),
  within: z.boolean().default(false).describe('the upper ends the process, within what the overlay does'),
  marks: z.string().describe('a directory for marks of what was killed already'),
});

export default definePlugin({
  name: 'fatal',
  description: 'passthrough or memfs whose process is killed',
  options,
  async create({ share, lower, within, marks }, environment) {
    const fatal = { type: fileURLToPath(import.meta.url), ...(share === undefined ? {} : { share }), marks };
    const above = (upper: unknown) =>
      overlay.create(overlay.options.parse({ lowers: [lower], upper }), environment);
    if (lower !== undefined && within) return above(fatal);
    const options = { sharedDir: share, trustedXattrs: 'allow' };
    const own = async (): Promise<Backend> =>
      share === undefined
        ? memfs.create(memfs.options.parse({}), environment)
        : passthrough.create(passthrough.options.parse(options), environment);
    const inner = lower === undefined ? await own() : await above(share ?? { type: 'memfs' });
    /** Ends this process, unless it was ended for the same thing. */
    const end = (method: string, name: string): void => {
      const mark = `${marks}/${method}${name.replaceAll('/', '_')}`;
      if (!name.startsWith('!') || existsSync(mark)) return;
      writeFileSync(mark, '');
      process.kill(process.pid, 'SIGKILL');
    };
    const after =
      (method: string) =>
      <R>(name: string, call: () => R): R => {
        const result = call();
        end(method, name);
        return result;
      };
    const text = (buffer: GuestBuffer): string => {
      const bytes = new Uint8Array(buffer.length);
      buffer.get(0, bytes);
      return Buffer.from(bytes).toString();
    };
    return wrap(inner, {
      mknod: (next, parent, name, ...rest) => after('mknod')(name, () => next(parent, name, ...rest)),
      mkdir: (next, parent, name, ...rest) => after('mkdir')(name, () => next(parent, name, ...rest)),
      symlink: (next, parent, name, ...rest) => after('symlink')(name, () => next(parent, name, ...rest)),
      link: (next, node, parent, name, context) =>
        after('link')(name, () => next(node, parent, name, context)),
      create: (next, parent, name, ...rest) => after('create')(name, () => next(parent, name, ...rest)),
      unlink: (next, parent, name, context) => after('unlink')(name, () => next(parent, name, context)),
      rmdir: (next, parent, name, context) => after('rmdir')(name, () => next(parent, name, context)),
      rename: (next, parent, name, ...rest) => after('rename')(name, () => next(parent, name, ...rest)),
      setxattr: (next, node, name, value, ...rest) =>
        after('setxattr')(Buffer.from(value).toString(), () => next(node, name, value, ...rest)),
      removexattr: (next, node, name, context) =>
        after('removexattr')(name.replace('user.', ''), () => next(node, name, context)),
      write(next, node, file, buffer, ...rest) {
        const data = text(buffer);
        if (data.startsWith('!half')) {
          // What a killed process has written may be a part.
          if (!existsSync(`${marks}/write${data}`)) void next(node, file, buffer.slice(0, 7), ...rest);
          end('write', data);
        }
        const result = next(node, file, buffer, ...rest);
        end('write', data);
        return result;
      },
    });
  },
});
