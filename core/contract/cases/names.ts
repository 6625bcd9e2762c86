import { FileType, RenameFlags } from '../../backend/index.js';
import {
  contentOf,
  type ContractCase,
  createFile,
  CREATES,
  namesIn,
  readAll,
  writeAll,
  writeFile,
} from '../case.js';
import { equal, fails, holds, sameBytes, supported } from '../expect.js';

/** More than what a backend is likely to fetch of a listing at once. */
const RENAMED_WHILE_LISTED = 300;

/** More than a page of what many services list at once: 1,000. */
const MANY = 1100;

/** Rules for names and directories. */
export const nameCases: readonly ContractCase[] = [
  {
    name: 'names keep every byte, and differ where a byte differs',
    needs: [CREATES, 'readdir', 'write'],
    async run(trial) {
      const { client, directory } = trial;
      const names = [
        'a',
        'A',
        'x'.repeat(255),
        'ä'.repeat(127),
        '😀',
        '\u00e9',
        'e\u0301',
        '.hidden',
        '...',
        ' ',
        'a b',
        'new\nline',

        '-rf',
        'quote"\'`$(x)',
        'back\\slash',
        '%2F',
        '__proto__',
        'constructor',
        '0',
        '\u007f',
        'con.',
        '~',
      ];
      for (const name of names) await writeFile(trial, name, name);
      equal((await namesIn(client, directory)).sort(), [...names].sort(), 'names listed');
      for (const name of names) {
        const { id } = await client.lookup(directory, name);
        sameBytes(await contentOf(client, id), Buffer.from(name), `content of ${JSON.stringify(name)}`);
      }
    },
  },
  {
    name: 'a listing of more than a thousand names has each of them',
    needs: [CREATES, 'readdir'],
    async run(trial) {
      const names = Array.from({ length: MANY }, (_, i) => `name-${i}`);
      for (const name of names) await trial.client.closeFile((await createFile(trial, name)).file);
      const listed = (await namesIn(trial.client, trial.directory)).filter((name) => names.includes(name));
      equal(listed.sort(), [...names].sort(), 'names listed');
    },
  },
  {
    name: 'a name that was looked up is gone when it is removed or renamed',
    needs: [CREATES, 'unlink'],
    async run(trial) {
      const { client, directory, backend } = trial;
      const make = async (name: string): Promise<void> => {
        await client.closeFile((await createFile(trial, name)).file);
        await client.lookup(directory, name);
        await client.lookup(directory, name);
      };
      await make('removed');
      await client.unlink(directory, 'removed');
      await fails(client.lookup(directory, 'removed'), 'ENOENT', 'lookup of a name that unlink has removed');
      if (backend.rename !== undefined) {
        await make('renamed');
        await client.rename(directory, 'renamed', directory, 'new');
        await fails(
          client.lookup(directory, 'renamed'),
          'ENOENT',
          'lookup of a name that rename has removed',
        );
        await client.lookup(directory, 'new');
      }
      if (backend.mkdir !== undefined && backend.rmdir !== undefined) {
        await client.mkdir(directory, 'folder');
        await client.lookup(directory, 'folder');
        await client.rmdir(directory, 'folder');
        await fails(client.lookup(directory, 'folder'), 'ENOENT', 'lookup of a name that rmdir has removed');
      }
    },
  },
  {
    name: 'a listing ends, and misses no name, while its names are renamed and renamed back',
    needs: [CREATES, 'readdir', 'rename'],
    async run(trial) {
      const { client, directory } = trial;
      const names = Array.from({ length: RENAMED_WHILE_LISTED }, (_, i) => `name-${i}`);
      for (const name of names) await createFile(trial, name);
      const opened = await client.opendir(directory);
      const seen = new Set<string>();
      let listed = 0;
      for (let cookie = 0n; ;) {
        const entries = await client.readdir(opened, cookie, 600);
        if (entries.length === 0) break;
        cookie = entries.at(-1)!.cookie;
        for (const { name } of entries) {
          if (!name.startsWith('name-')) continue;
          seen.add(name);
          listed += 1;
          await client.rename(directory, name, directory, `other-${name}`);
          await client.rename(directory, `other-${name}`, directory, name);
        }
        const most = 3 * names.length;
        holds(listed <= most, 'entries that one listing gives', `at most ${most}`, `more, without an end`);
      }
      await client.closedir(opened);
      equal([...seen].sort(), [...names].sort(), 'names that the listing gave');
    },
  },
  {
    name: 'names that are not UTF-8 are kept byte by byte, or refused',
    needs: [CREATES, 'readdir'],
    async run(trial) {
      const names = ['\udcff', 'a\udc80\udcc3z', '\udced\udca0\udc80'];
      for (const name of names) {
        const made = createFile(trial, name);
        const { file } = await supported(made, 'EILSEQ', 'EINVAL');
        await trial.client.closeFile(file);
      }
      equal((await namesIn(trial.client, trial.directory)).sort(), [...names].sort(), 'names listed');
    },
  },
  {
    name: 'a directory is made empty with the mode asked for, filled, and removed only when it is empty',
    needs: ['mkdir', 'rmdir', 'readdir'],
    async run(trial) {
      const { client, directory } = trial;
      const made = await client.mkdir(directory, 'directory', 0o750);
      equal(made.stat.mode.toString(8), (FileType.DIRECTORY | 0o750).toString(8), 'mode');
      equal(await namesIn(client, made.id), [], 'names in it');
      await fails(client.mkdir(directory, 'directory'), 'EEXIST', 'mkdir of a name that is there');
      const inner = await client.mkdir(made.id, 'inner');
      await fails(
        client.rmdir(directory, 'directory'),
        ['ENOTEMPTY', 'EEXIST'],
        'rmdir of a directory with a name in it',
      );
      equal((await client.lookup(made.id, 'inner')).id, inner.id, 'inner directory, after rmdir was refused');
      await client.rmdir(made.id, 'inner');
      await client.rmdir(directory, 'directory');
      await fails(client.lookup(directory, 'directory'), 'ENOENT', 'lookup of the removed directory');
      await fails(client.rmdir(directory, 'directory'), 'ENOENT', 'rmdir of a name that is not there');
    },
  },
  {
    name: 'unlink takes no directory, and rmdir no file',
    needs: ['mkdir', 'rmdir', 'unlink', CREATES],
    async run(trial) {
      const { client, directory } = trial;
      await client.mkdir(directory, 'directory');
      await client.closeFile((await createFile(trial, 'file')).file);
      await fails(client.unlink(directory, 'directory'), ['EISDIR', 'EPERM'], 'unlink of a directory');
      await fails(client.rmdir(directory, 'file'), 'ENOTDIR', 'rmdir of a file');
      await client.lookup(directory, 'directory');
      await client.lookup(directory, 'file');
    },
  },
  {
    name: 'nothing is made in a directory that was removed',
    needs: ['mkdir', 'rmdir', CREATES],
    async run(trial) {
      const { client, directory } = trial;
      const { id } = await client.mkdir(directory, 'gone');
      await client.rmdir(directory, 'gone');
      await fails(createFile(trial, 'file', { parent: id }), ['ENOENT', 'ESTALE'], 'creating in it');
      await fails(client.mkdir(id, 'directory'), ['ENOENT', 'ESTALE'], 'mkdir in it');
      await fails(client.lookup(id, 'file'), ['ENOENT', 'ESTALE'], 'lookup in it');
    },
  },
  {
    name: 'a listing shows each name that stays exactly once, whatever is removed and made meanwhile',
    needs: [CREATES, 'unlink', 'readdir'],
    async run(trial) {
      const { client, directory } = trial;
      const stay = Array.from({ length: 150 }, (_, i) => `stays-${i}`);
      const go = Array.from({ length: 150 }, (_, i) => `goes-${i}`);
      for (const name of [...stay, ...go]) await client.closeFile((await createFile(trial, name)).file);
      const opened = await client.opendir(directory);
      const seen = new Map<string, number>();
      const cookies: bigint[] = [0n];
      for (let left = [...go]; ;) {
        const entries = await client.readdir(opened, cookies.at(-1)!, 1024);
        if (entries.length === 0) break;
        for (const { name } of entries) seen.set(name, (seen.get(name) ?? 0) + 1);
        cookies.push(entries.at(-1)!.cookie);
        for (const name of left.splice(0, 20)) await client.unlink(directory, name);
        await client.closeFile((await createFile(trial, `new-${cookies.length}`)).file);
      }
      for (const name of stay) equal(seen.get(name), 1, `times that ${name} was listed`);
      for (const [name, times] of seen) equal(times, 1, `times that ${name} was listed`);
      const again = await client.readdir(opened, cookies[1]!, 1024);
      holds(again.length > 0, 'entries at a cookie from before', 'some', again);
      await client.closedir(opened);
      for (const name of stay)
        equal((await namesIn(client, directory)).includes(name), true, `${name} listed anew`);
    },
  },
  {
    name: 'a renamed file keeps its node and its content, also while it is open',
    needs: [CREATES, 'rename', 'write', 'read'],
    async run(trial) {
      const { client, directory } = trial;
      const { id, file } = await createFile(trial, 'old');
      await writeAll(client, file, 0, Buffer.from('content'));
      await client.rename(directory, 'old', directory, 'new');
      await fails(client.lookup(directory, 'old'), 'ENOENT', 'lookup of the old name');
      equal((await client.lookup(directory, 'new')).id, id, 'node by the new name');
      await writeAll(client, file, 7, Buffer.from(' more'));
      sameBytes(await readAll(client, file), Buffer.from('content more'), 'content through the open file');
      await client.closeFile(file);
      sameBytes(await contentOf(client, id), Buffer.from('content more'), 'content');
      await fails(
        client.rename(directory, 'old', directory, 'new'),
        'ENOENT',
        'renaming a name that is not there',
      );
      await client.rename(directory, 'new', directory, 'new');
      equal((await client.lookup(directory, 'new')).id, id, 'node after a rename to itself');
    },
  },
  {
    name: 'a rename replaces a file, which lives on while it is open',
    needs: [CREATES, 'rename', 'write', 'read'],
    async run(trial) {
      const { client, directory } = trial;
      const { id } = await writeFile(trial, 'a', 'content of a');
      const replaced = await createFile(trial, 'b');
      await writeAll(client, replaced.file, 0, Buffer.from('content of b'));
      await client.rename(directory, 'a', directory, 'b');
      equal((await client.lookup(directory, 'b')).id, id, 'node by the name');
      sameBytes(await contentOf(client, id), Buffer.from('content of a'), 'content by the name');
      sameBytes(
        await readAll(client, replaced.file),
        Buffer.from('content of b'),
        'content of the replaced file',
      );
      equal((await client.stat(replaced.id, replaced.file)).nlink, 0, 'links of the replaced file');
      await client.closeFile(replaced.file);
    },
  },
  {
    name: 'a directory is renamed with all that is in it, and replaces only an empty one',
    needs: ['mkdir', 'rename', CREATES, 'write'],
    async run(trial) {
      const { client, directory } = trial;
      const from = await client.mkdir(directory, 'from');
      const deep = await client.mkdir(from.id, 'deep');
      const { file, id } = await createFile(trial, 'file', { parent: deep.id });
      await client.closeFile(file);
      const target = await client.mkdir(directory, 'target');
      await client.rename(directory, 'from', target.id, 'moved');
      const moved = await client.lookup(target.id, 'moved');
      equal(moved.id, from.id, 'node of the moved directory');
      const found = await client.lookup((await client.lookup(moved.id, 'deep')).id, 'file');
      equal(found.id, id, 'node of a file in it');
      await client.mkdir(directory, 'empty');
      await client.rename(target.id, 'moved', directory, 'empty');
      equal((await client.lookup(directory, 'empty')).id, from.id, 'node that replaced an empty directory');
      await client.mkdir(directory, 'other');
      await fails(
        client.rename(directory, 'other', directory, 'empty'),
        ['ENOTEMPTY', 'EEXIST'],
        'renaming over a directory with names in it',
      );
      await writeFile(trial, 'plain', 'x');
      await fails(
        client.rename(directory, 'plain', directory, 'other'),
        'EISDIR',
        'renaming a file over a directory',
      );
      await fails(
        client.rename(directory, 'other', directory, 'plain'),
        'ENOTDIR',
        'renaming a directory over a file',
      );
      await fails(
        client.rename(directory, 'empty', deep.id, 'inside'),
        'EINVAL',
        'renaming a directory into itself',
      );
    },
  },
  {
    name: 'a rename that must not replace does not, and an exchange exchanges, or both are refused',
    needs: [CREATES, 'rename', 'write'],
    async run(trial) {
      const { client, directory } = trial;
      const a = await writeFile(trial, 'a', 'a');
      const b = await writeFile(trial, 'b', 'b');
      await fails(
        client.rename(directory, 'a', directory, 'b', RenameFlags.NOREPLACE),
        ['EEXIST', 'EINVAL'],
        'RENAME_NOREPLACE onto a name that is there',
      );
      equal((await client.lookup(directory, 'b')).id, b.id, 'node that must not be replaced');
      await supported(client.rename(directory, 'a', directory, 'c', RenameFlags.NOREPLACE), 'EINVAL');
      equal((await client.lookup(directory, 'c')).id, a.id, 'node after RENAME_NOREPLACE onto a free name');
      await supported(client.rename(directory, 'c', directory, 'b', RenameFlags.EXCHANGE), 'EINVAL');
      equal((await client.lookup(directory, 'b')).id, a.id, 'first node after an exchange');
      equal((await client.lookup(directory, 'c')).id, b.id, 'second node after an exchange');
      await fails(
        client.rename(directory, 'b', directory, 'none', RenameFlags.EXCHANGE),
        'ENOENT',
        'an exchange with a name that is not there',
      );
    },
  },
  {
    name: 'hard links are one file, until the last is removed',
    needs: [CREATES, 'link', 'unlink', 'write', 'read'],
    async run(trial) {
      const { client, directory } = trial;
      const { id } = await writeFile(trial, 'first', 'content');
      const linked = await supported(client.link(id, directory, 'second'), 'EPERM', 'EOPNOTSUPP');
      equal([linked.id, linked.stat.nlink], [id, 2], 'node and links of a link');
      equal((await client.lookup(directory, 'second')).id, id, 'node that lookup finds');
      await fails(client.link(id, directory, 'second'), 'EEXIST', 'link to a name that is there');
      await client.unlink(directory, 'first');
      equal((await client.stat(id)).nlink, 1, 'links after one is removed');
      sameBytes(await contentOf(client, id), Buffer.from('content'), 'content');
      if (trial.backend.rename === undefined) return;
      await client.link(id, directory, 'third');
      await client.rename(directory, 'second', directory, 'third');
      await client.lookup(directory, 'second');
      equal((await client.stat(id)).nlink, 2, 'links after a rename onto another name of the same file');
    },
  },
  {
    name: 'a symbolic link keeps its target, whatever that is',
    needs: ['symlink', 'readlink'],
    async run({ client, directory }) {
      for (const [name, target] of Object.entries({
        a: 'somewhere',
        b: '/absolute/../path',
        c: 'ä😀 \n',
        d: 'x'.repeat(4095),
        e: '.',
        f: './with//slashes/',
      })) {
        const { id, stat } = await client.symlink(directory, name, target);
        equal(stat.mode & FileType.MASK, FileType.SYMLINK, 'type');
        equal(await client.readlink(id), target, 'target');
        equal((await client.lookup(directory, name)).stat.size, Buffer.byteLength(target), 'size');
      }
      await fails(client.symlink(directory, 'a', 'else'), 'EEXIST', 'symlink of a name that is there');
    },
  },
  {
    name: 'sockets, FIFOs and devices are made as asked',
    needs: ['mknod'],
    async run({ client, directory }) {
      for (const [name, type, rdev] of [
        ['fifo', FileType.FIFO, 0],
        ['socket', FileType.SOCKET, 0],
        ['character', FileType.CHARACTER, 0x105],
        ['block', FileType.BLOCK, 0x801],
      ] as const) {
        const made = await supported(
          client.mknod(directory, name, type | 0o600, rdev),
          'EPERM',
          'EOPNOTSUPP',
        );
        equal([made.stat.mode, made.stat.rdev], [type | 0o600, rdev], `mode and device of a ${name}`);
        await fails(
          client.mknod(directory, name, type | 0o600, rdev),
          'EEXIST',
          `mknod of a ${name} that is there`,
        );
      }
    },
  },
];
