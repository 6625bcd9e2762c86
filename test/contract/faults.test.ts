import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import memfs from '../../backends/memfs/index.js';
import {
  type AttributeChanges,
  type Backend,
  type Context,
  type DirectoryEntry,
  FileType,
  FsError,
  type GuestBuffer,
  type Time,
} from '../../core/backend/index.js';
import { cases, checkBackend } from '../../core/contract/index.js';
import { pluginEnvironment, keepingLog } from '../support/host-mount.js';

/*
 * Mistakes that authors of backends make. Each is put into a backend that has none. The suite must
 * then name the rule that it breaks.
 */

type Faults = (sound: Backend) => { readonly [M in keyof Backend]?: Backend[M] };

async function backendWith(faults: Faults): Promise<Backend> {
  const environment = pluginEnvironment();
  const sound = await memfs.create(memfs.options.parse({ size: '64m' }), environment);
  const wrong: Record<PropertyKey, unknown> = faults(sound);
  return new Proxy(sound, {
    get(target, key) {
      if (Object.hasOwn(wrong, key)) return wrong[key];
      const value: unknown = Reflect.get(target, key);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

function* listed(entries: unknown): Generator<DirectoryEntry> {
  for (const { name, type, ino } of entries as Iterable<DirectoryEntry>) yield { name, type, ino };
}

const whole = (time: Time | 'now' | undefined) =>
  typeof time === 'object' ? { seconds: time.seconds, nanoseconds: 0 } : time;

const rootContext = (context: Context): Context =>
  Object.create(context, { uid: { value: 0 }, gid: { value: 0 } }) as Context;

const mistakes: readonly [mistake: string, rule: RegExp, faults: Faults, timeoutMs?: number][] = [
  [
    'reads into the first segment only',
    /^what is written is read back/,
    (sound) => ({
      read: (node, file, buffer: GuestBuffer, offset, context) =>
        sound.read!(node, file, buffer.slice(0, buffer.segments[0]?.length ?? 0), offset, context),
    }),
  ],
  [
    'writes the first segment only, and says it wrote all',
    /^what is written is read back/,
    (sound) => ({
      write: (node, file, buffer: GuestBuffer, offset, flags, context) => {
        void sound.write!(
          node,
          file,
          buffer.slice(0, buffer.segments[0]?.length ?? 0),
          offset,
          flags,
          context,
        );
        return buffer.length;
      },
    }),
  ],
  [
    'computes offsets with 32-bit operators',
    /^offsets beyond 4 GiB/,
    (sound) => ({
      write: (node, file, buffer, offset, flags, context) =>
        sound.write!(node, file, buffer, offset >>> 0, flags, context),
    }),
  ],
  [
    'looks names up in a plain object',
    /^names that every object in JavaScript has/,
    (sound) => ({
      lookup: (parent, name, context) =>
        name in {}
          ? { node: {}, attributes: { mode: FileType.REGULAR } }
          : sound.lookup(parent, name, context),
    }),
  ],
  [
    'lists a name twice',
    /^a listing shows each name that stays exactly once/,
    (sound) => ({
      readdir: (node, context) => {
        const entries = [...listed(sound.readdir!(node, context))];
        return [...entries, ...entries.slice(-1)];
      },
    }),
  ],
  [
    'lists a wrong type',
    /^every name that readdir lists is found/,
    (sound) => ({
      readdir: (node, context) =>
        [...listed(sound.readdir!(node, context))].map((entry) => ({ ...entry, type: FileType.FIFO })),
    }),
  ],
  [
    'decodes names as if all were UTF-8',
    /^names that are not UTF-8/,
    (sound) => ({
      readdir: (node, context) =>
        [...listed(sound.readdir!(node, context))].map((entry) => ({
          ...entry,
          name: entry.name.replaceAll(/[\udc80-\udcff](?<![\ud800-\udbff].)/g, '\ufffd'),
        })),
    }),
  ],
  [
    'destroys what a removed name named',
    /^a removed name is gone, and what it named/,
    (sound) => ({
      unlink: async (parent, name, context) => {
        const entry = await sound.lookup(parent, name, context);
        await sound.setattr!(entry!.node, { size: 0 }, undefined, context);
        await sound.unlink!(parent, name, context);
      },
    }),
  ],
  [
    'refuses to rename over a file',
    /^a rename replaces a file/,
    (sound) => ({
      rename: (parent, name, newParent, newName, _flags, context) =>
        sound.rename!(parent, name, newParent, newName, 1, context),
    }),
  ],
  [
    'ignores the flags of a rename',
    /^a rename that must not replace does not/,
    (sound) => ({
      rename: (parent, name, newParent, newName, _flags, context) =>
        sound.rename!(parent, name, newParent, newName, 0, context),
    }),
  ],
  [
    'takes a rename of a name that is not there for done',
    /^a renamed file keeps its node/,
    (sound) => ({
      rename: async (parent, name, newParent, newName, flags, context) => {
        if ((await sound.lookup(parent, name, context)) === undefined) return;
        await sound.rename!(parent, name, newParent, newName, flags, context);
      },
    }),
  ],
  [
    'removes directories that are not empty, or seems to',
    /^a directory is made empty with the mode asked for/,
    () => ({ rmdir: () => undefined }),
  ],
  [
    'keeps times to the second',
    /^times are kept to the nanosecond/,
    (sound) => ({
      setattr: (node, changes: AttributeChanges, file, context) => {
        const { atime, mtime } = changes;
        const cut = {
          ...changes,
          ...(atime === undefined ? {} : { atime: whole(atime)! }),
          ...(mtime === undefined ? {} : { mtime: whole(mtime)! }),
        };
        return sound.setattr!(node, cut, file, context);
      },
    }),
  ],
  [
    'makes everything root’s',
    /^a created file belongs to who created it/,
    (sound) => ({
      create: (parent, name, mode, flags, context) =>
        sound.create!(parent, name, mode, flags, rootContext(context)),
    }),
  ],
  [
    'ignores XATTR_CREATE',
    /^an extended attribute is set, read/,
    (sound) => ({
      setxattr: (node, name, value, _flags, killSgid, context) =>
        sound.setxattr!(node, name, value, 0, killSgid, context),
    }),
  ],
  [
    'shows another size in getattr than in lookup',
    /^getattr shows what lookup showed/,
    (sound) => ({
      getattr: async (node, file, context) => ({
        ...(await sound.getattr(node, file, context)),
        size: 12_345,
      }),
    }),
  ],
  [
    'makes a new node for each lookup',
    /^a created file is empty/,
    (sound) => ({
      key: undefined,
      lookup: async (parent, name, context) => {
        const entry = await sound.lookup(parent, name, context);
        const isFolder =
          entry !== undefined && (entry.attributes.mode & FileType.MASK) === FileType.DIRECTORY;
        return entry === undefined || isFolder ? entry : { node: {}, attributes: entry.attributes };
      },
      getattr: (node, file, context) =>
        Object.keys(node).length === 0 ? { mode: FileType.REGULAR } : sound.getattr(node, file, context),
    }),
  ],
  [
    'forgets everything in a restart',
    /^what was made is there after a restart/,
    () => ({ restore: () => undefined }),
  ],
  [
    'throws what is no FsError',
    /^a write beyond the end leaves zeros/,
    () => ({
      write: () => {
        throw new TypeError('x is not a function');
      },
    }),
  ],
  [
    'answers with the wrong error',
    /^creating a name that is there is EEXIST/,
    (sound) => ({
      create: async (parent, name, mode, flags, context) => {
        if ((await sound.lookup(parent, name, context)) !== undefined) throw FsError.of('EACCES');
        return sound.create!(parent, name, mode, flags, context);
      },
    }),
  ],
  [
    'lists what is added while it lists, without an end',
    /^a listing ends, and misses no name/,
    (sound) => ({
      readdir: function* (node, context) {
        for (let added = 1; added > 0;) {
          added = 0;
          for (const entry of listed(sound.readdir!(node, context))) {
            added += 1;
            yield entry;
          }
        }
      },
    }),
  ],
  [
    'lists the first hundred names only',
    /^a listing ends, and misses no name/,
    (sound) => ({
      readdir: function* (node, context) {
        let left = 100;
        for (const entry of listed(sound.readdir!(node, context))) if (left-- > 0) yield entry;
      },
    }),
  ],
  [
    'never answers',
    /^content is the same after fsync/,
    () => ({ fsync: () => new Promise(() => undefined) }),
    200,
  ],
];

describe('the contract suite names the rule that is broken by a backend that', () => {
  for (const [mistake, rule, faults, timeoutMs = 2000] of mistakes) {
    it(mistake, async () => {
      const rules = cases.filter(({ name }) => rule.test(name));
      assert.equal(rules.length, 1, `${rule} is one rule`);
      const options = { log: keepingLog(), only: (name: string) => rule.test(name) };
      const sound = await checkBackend({
        ...options,
        timeoutMs: 2000,
        create: () => backendWith(() => ({})),
      });
      assert.deepEqual([sound.passed, sound.failed], [1, 0]);
      const { results } = await checkBackend({
        ...options,
        timeoutMs,
        create: () => backendWith(faults),
      });
      assert.equal(results[0]!.outcome, 'failed');
      assert.match(results[0]!.reason!, /expected .+, got .+|Error: E[A-Z]+$/);
    });
  }
});
