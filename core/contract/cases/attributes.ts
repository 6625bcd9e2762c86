import { FallocateMode, FileType, FsError, XattrFlags } from '../../backend/index.js';
import { type ContractCase, createFile, CREATES, noise, readAll, writeAll, writeFile } from '../case.js';
import { equal, fails, holds, sameBytes, supported } from '../expect.js';

/** Rules for attributes, extended attributes, ranges of files, and durability. */
export const attributeCases: readonly ContractCase[] = [
  {
    name: 'mode, owner and group change as asked, and nothing else does',
    needs: [CREATES, 'setattr'],
    async run(trial) {
      const { client } = trial;
      const { id, stat, file } = await createFile(trial, 'file');
      await client.closeFile(file);
      const changed = await client.change(id, { mode: 0o600 });
      equal(changed.mode, FileType.REGULAR | 0o600, 'mode');
      equal(
        [changed.uid, changed.gid, changed.size, changed.mtime],
        [stat.uid, stat.gid, 0, stat.mtime],
        'the rest',
      );
      const owned = await supported(client.change(id, { uid: 1001, gid: 1002 }), 'EPERM');
      equal([owned.uid, owned.gid, owned.mode & 0o777], [1001, 1002, 0o600], 'owner, group and mode');
      equal((await client.change(id, { gid: 1003 })).uid, 1001, 'owner after the group changed');
      const after = await client.stat(id);
      equal([after.uid, after.gid, after.mode], [1001, 1003, FileType.REGULAR | 0o600], 'by getattr');
    },
  },
  {
    name: 'times are kept to the nanosecond, before 1970 and after 2038, each by itself',
    needs: [CREATES, 'setattr'],
    async run(trial) {
      const { client } = trial;
      const { id, file } = await createFile(trial, 'file');
      await client.closeFile(file);
      for (const mtime of [1_234_567_890_123_456_789n, 5_000_000_000_000_000_001n, -1_500_000_000n, 0n]) {
        const changed = await client.change(id, { atime: 1_000_000_007n, mtime });
        equal([changed.atime, changed.mtime], [1_000_000_007n, mtime], 'atime and mtime');
        equal((await client.stat(id)).mtime, mtime, 'mtime by getattr');
      }
      const later = await client.change(id, { atime: 2_000_000_000n });
      equal([later.atime, later.mtime], [2_000_000_000n, 0n], 'atime and mtime, when only atime is set');
      const before = BigInt(Date.now() - 60_000) * 1_000_000n;
      const now = await client.change(id, { mtime: 'now' });
      holds(now.mtime > before, 'mtime set to now', `within a minute of ${before}`, now.mtime);
    },
  },
  {
    name: 'a change of attributes moves ctime on',
    needs: [CREATES, 'setattr'],
    async run(trial) {
      const { client } = trial;
      const { id, stat, file } = await createFile(trial, 'file');
      await client.closeFile(file);
      await new Promise((resolve) => {
        setTimeout(resolve, 30);
      });
      const { ctime } = await client.change(id, { mode: 0o640 });
      holds(ctime > stat.ctime, 'ctime after a change of mode', `later than ${stat.ctime} ns`, ctime);
    },
  },
  {
    name: 'an extended attribute is set, read, listed, replaced and removed',
    needs: [CREATES, 'setxattr', 'getxattr', 'listxattr', 'removexattr'],
    async run(trial) {
      const { client } = trial;
      const { id } = await writeFile(trial, 'file', '');
      const name = 'user.contract';
      const values = [noise(100), new Uint8Array(0), Buffer.from('text'), noise(1000, 3)];
      for (const value of values) {
        await supported(client.setxattr(id, name, value), 'EOPNOTSUPP');
        sameBytes(await client.getxattr(id, name), value, 'value');
        equal((await client.listxattr(id)).includes(name), true, 'listed');
      }
      await fails(client.getxattr(id, name, 10), 'ERANGE', 'reading into too little room');
      await fails(
        client.setxattr(id, name, noise(3), XattrFlags.CREATE),
        'EEXIST',
        'XATTR_CREATE of one that is there',
      );
      await client.setxattr(id, name, noise(5), XattrFlags.REPLACE);
      sameBytes(await client.getxattr(id, name), noise(5), 'value after XATTR_REPLACE');
      await client.setxattr(id, `${name}.other`, noise(7));
      await client.removexattr(id, name);
      await fails(client.getxattr(id, name), 'ENODATA', 'reading one that was removed');
      await fails(client.removexattr(id, name), 'ENODATA', 'removing it again');
      await fails(
        client.setxattr(id, name, noise(5), XattrFlags.REPLACE),
        'ENODATA',
        'XATTR_REPLACE of a missing one',
      );
      const listed = (await client.listxattr(id)).filter((one) => one.startsWith('user.'));
      equal(listed, [`${name}.other`], 'listed after removing one of two');
    },
  },
  {
    name: 'an extended attribute of 64 KiB is kept whole, or refused',
    needs: [CREATES, 'setxattr', 'getxattr'],
    async run(trial) {
      const { client } = trial;
      const { id } = await writeFile(trial, 'file', '');
      const value = noise(65_536);
      const refusals = ['EOPNOTSUPP', 'ENOSPC', 'E2BIG', 'ERANGE', 'EDQUOT'] as const;
      await supported(client.setxattr(id, 'user.large', value), ...refusals);
      sameBytes(await client.getxattr(id, 'user.large'), value, 'value');
    },
  },
  {
    name: 'space is set aside, with the size or without, holes are punched, ranges zeroed, or that is refused',
    needs: [CREATES, 'write', 'read', 'fallocate'],
    async run(trial) {
      const { client } = trial;
      const { id, file } = await createFile(trial, 'file');
      const content = noise(100_000);
      await writeAll(client, file, 0, content);
      const allocate = async (mode: number, offset: number, length: number): Promise<boolean> => {
        try {
          await client.fallocate(file, mode, offset, length);
          return true;
        } catch (error) {
          if (error instanceof FsError && error.code === 'EOPNOTSUPP') return false;
          throw error;
        }
      };
      const { KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE } = FallocateMode;
      if (await allocate(KEEP_SIZE, 0, 200_000))
        equal((await client.stat(id)).size, 100_000, 'size with KEEP_SIZE');
      if (await allocate(0, 50_000, 100_000)) equal((await client.stat(id)).size, 150_000, 'size without');
      else await client.change(id, { size: 150_000 });
      const expected = new Uint8Array(150_000);
      expected.set(content);
      sameBytes(await readAll(client, file), expected, 'content after setting space aside');
      if (await allocate(PUNCH_HOLE | KEEP_SIZE, 10_001, 20_000)) expected.fill(0, 10_001, 30_001);
      sameBytes(await readAll(client, file), expected, 'content after punching a hole');
      if (await allocate(ZERO_RANGE | KEEP_SIZE, 70_000, 1_000_000)) expected.fill(0, 70_000);
      sameBytes(await readAll(client, file), expected, 'content after zeroing a range');
      await client.closeFile(file);
    },
  },
  {
    name: 'data and holes are found in order, and beyond the end there is neither',
    needs: [CREATES, 'write', 'lseek'],
    async run(trial) {
      const { client } = trial;
      const { file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, noise(4096));
      await writeAll(client, file, 4 * 1024 * 1024, noise(5000));
      const end = 4 * 1024 * 1024 + 5000;
      equal(await client.lseek(file, 0, 'data'), 0, 'first data');
      const hole = await client.lseek(file, 0, 'hole');
      holds(hole >= 4096 && hole <= end, 'first hole', `4096 to ${end}`, hole);
      if (hole < end) {
        const data = await client.lseek(file, hole, 'data');
        holds(
          data > hole && data <= 4 * 1024 * 1024,
          'data after the hole',
          `at most ${4 * 1024 * 1024}`,
          data,
        );
      }
      equal(await client.lseek(file, end - 1, 'hole'), end, 'hole at the end');
      await fails(client.lseek(file, end, 'data'), 'ENXIO', 'data at the end');
      await fails(client.lseek(file, end + 10, 'hole'), 'ENXIO', 'hole beyond the end');
      await client.closeFile(file);
    },
  },
  {
    name: 'a range is copied between files and within one, and ends where its source ends',
    needs: [CREATES, 'write', 'read', 'copyFileRange'],
    async run(trial) {
      const { client } = trial;
      const content = noise(300_000);
      const from = await createFile(trial, 'from');
      const to = await createFile(trial, 'to');
      await writeAll(client, from.file, 0, content);
      const copy = async (at: number, target: number, length: number, file = to.file): Promise<void> => {
        for (let done = 0; done < length;) {
          const copied = await supported(
            client.copyRange(from.file, at + done, file, target + done, length - done),
            'EOPNOTSUPP',
          );
          holds(copied > 0, 'bytes copied', 'more than 0', copied);
          done += copied;
        }
      };
      await copy(1000, 5000, 200_000);
      const expected = new Uint8Array(205_000);
      expected.set(content.subarray(1000, 201_000), 5000);
      sameBytes(await readAll(client, to.file), expected, 'content of the copy');
      await copy(0, 400_000, 1000, from.file);
      sameBytes(
        await client.read(from.file, 400_000, 5000),
        content.subarray(0, 1000),
        'a copy within one file',
      );
      equal(await client.copyRange(from.file, 401_000, to.file, 0, 10), 0, 'bytes copied from the end');
      equal(
        await client.copyRange(from.file, 400_500, to.file, 0, 10_000),
        500,
        'bytes copied from before the end',
      );
      await client.closeFile(from.file);
      await client.closeFile(to.file);
    },
  },
  {
    name: 'a range is not copied onto a part of itself, where it has data and where it has none',
    needs: [CREATES, 'write', 'read', 'copyFileRange'],
    async run(trial) {
      const { client } = trial;
      const content = noise(10_000);
      const { file } = await createFile(trial, 'file');
      await writeAll(client, file, 100_000, content);
      for (const [from, to, length] of [
        [100_000, 100_000, 10_000],
        [0, 0, 20_000],
        [100_000, 104_000, 5000],
        [104_000, 100_000, 5000],
        [0, 8192, 8193],
        [8192, 0, 8193],
        // The source ends in what it is copied to.
        [0, 109_999, 10_000_000],
      ] as const) {
        const copying = supported(client.copyRange(file, from, file, to, length), 'EOPNOTSUPP');
        await fails(copying, 'EINVAL', `copying ${length} bytes from ${from} to ${to}`);
      }
      const expected = new Uint8Array(110_000);
      expected.set(content, 100_000);
      sameBytes(await readAll(client, file), expected, 'content after the refused copies');
      await client.closeFile(file);
    },
  },
  {
    name: 'a directory can be made durable',
    needs: ['fsyncdir', 'readdir'],
    async run({ client, directory }) {
      const opened = await client.opendir(directory);
      await client.fsyncdir(opened);
      await client.closedir(opened);
    },
  },
  {
    name: 'what was made is there after a restart, as it was',
    needs: [CREATES, 'mkdir', 'write', 'read', 'readdir', 'setattr', ['restore', 'resolve']],
    async run(trial) {
      const { client, directory } = trial;
      const inner = await client.mkdir(directory, 'inner', 0o711);
      const content = noise(150_000);
      const file = await writeFile(trial, 'file', content);
      await client.change(file.id, { mode: 0o640, mtime: 1_234_567_890_123_456_789n });
      if (trial.backend.syncfs !== undefined) await client.syncfs();
      const again = await trial.restart();
      const found = await again.client.lookup(again.directory, 'file');
      equal(found.stat.mode & 0o777, 0o640, 'mode of a file');
      equal([found.stat.size, found.stat.mtime], [150_000, 1_234_567_890_123_456_789n], 'size and mtime');
      const opened = await again.client.open(found.id);
      sameBytes(await readAll(again.client, opened), content, 'content');
      await again.client.closeFile(opened);
      const directoryFound = await again.client.lookup(again.directory, 'inner');
      equal(directoryFound.stat.mode, FileType.DIRECTORY | 0o711, 'mode of a directory');
      if (trial.backend.key !== undefined) {
        equal([found.id, directoryFound.id], [file.id, inner.id], 'node ids, which come from keys');
      }
    },
  },
];
