import { setTimeout as delay } from 'node:timers/promises';
import { FileType, OpenFlags } from '../../backend/index.js';
import {
  contentOf,
  type ContractCase,
  createFile,
  CREATES,
  namesIn,
  noise,
  readAll,
  writeAll,
  writeFile,
} from '../case.js';
import { equal, fails, holds, sameBytes, supported, unless } from '../expect.js';

/** How many blocks of a file are written together, and then read together. */
const BLOCKS = 24;

/** How long one waits for what a request does after it has ended in EINTR. */
const LATE_MS = 100;

/** Rules for files that are made, written, truncated and removed. */
export const fileCases: readonly ContractCase[] = [
  {
    name: 'a created file is empty, regular, has the mode asked for, one link, and is found and listed',
    needs: [CREATES],
    async run(trial) {
      const { client, directory, backend } = trial;
      for (const mode of [0o644, 0o600, 0o4755]) {
        const name = `file-${mode.toString(8)}`;
        const { id, stat, file } = await createFile(trial, name, { mode });
        equal(stat.mode.toString(8), (FileType.REGULAR | mode).toString(8), 'mode');
        equal([stat.size, stat.nlink], [0, 1], 'size and links');
        equal((await readAll(client, file)).length, 0, 'bytes read');
        await client.closeFile(file);
        equal((await client.lookup(directory, name)).id, id, 'node that lookup finds');
        if (backend.readdir !== undefined) {
          equal((await namesIn(client, directory)).includes(name), true, 'listed');
        }
      }
    },
  },
  {
    name: 'a created file belongs to who created it',
    needs: [CREATES, 'mkdir'],
    async run(trial) {
      const { client, directory } = trial;
      const parent = (await client.mkdir(directory, 'open-to-all', 0o777)).id;
      if (trial.backend.setattr !== undefined) await client.change(parent, { mode: 0o777 });
      client.caller = { uid: 1234, gid: 2345 };
      try {
        const { stat, file } = await createFile(trial, 'mine', { parent });
        equal([stat.uid, stat.gid], [1234, 2345], 'owner and group');
        await client.closeFile(file);
        const made = await client.mkdir(parent, 'my-directory');
        equal([made.stat.uid, made.stat.gid], [1234, 2345], 'owner and group of a directory');
      } finally {
        client.caller = { uid: 0, gid: 0 };
      }
    },
  },
  {
    name: 'creating a name that is there is EEXIST where that is asked for, and else opens it',
    needs: ['create'],
    async run(trial) {
      const { client, directory } = trial;
      const { id } = await writeFile(trial, 'there', 'content');
      const flags = OpenFlags.READ_WRITE | OpenFlags.CREAT;
      await fails(
        client.create(directory, 'there', FileType.REGULAR | 0o644, flags | OpenFlags.EXCL),
        'EEXIST',
        'create with O_EXCL',
      );
      const opened = await client.create(directory, 'there', FileType.REGULAR | 0o644, flags);
      equal(opened.id, id, 'node that create without O_EXCL opens');
      sameBytes(
        await readAll(client, opened.file),
        Buffer.from('content'),
        'content of the file that was there',
      );
      await client.closeFile(opened.file);
    },
  },
  {
    name: 'what is written is read back, at any offset and in any length',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client } = trial;
      const { id, file } = await createFile(trial, 'file');
      const random = noise(4 * 60, 7);
      const expected = new Uint8Array(400_000);
      let end = 0;
      for (let i = 0; i < 60; i++) {
        const [a, b, c, d] = random.subarray(i * 4, i * 4 + 4) as unknown as [number, number, number, number];
        const offset = (a * 256 + b) * (i % 3 === 0 ? 1 : 3);
        const length = Math.min(1 + (c * 256 + d) * (i % 5 === 0 ? 3 : 1), expected.length - offset);
        const data = noise(length, i + 1);
        await writeAll(client, file, offset, data);
        expected.set(data, offset);
        end = Math.max(end, offset + length);
        if (i % 10 === 9)
          sameBytes(await readAll(client, file), expected.subarray(0, end), `after ${i + 1} writes`);
      }
      equal((await client.stat(id, file)).size, end, 'size by getattr through the open file');
      await client.closeFile(file);
      sameBytes(await contentOf(client, id), expected.subarray(0, end), 'after closing and opening');
      equal((await client.stat(id)).size, end, 'size by getattr');
    },
  },
  {
    name: 'a file that is made has its content when it is opened again, whole and in pieces',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client, directory, content } = trial;
      await writeFile(trial, 'file', content);
      const { id, stat } = await client.lookup(directory, 'file');
      equal(stat.size, content.length, 'size');
      sameBytes(await contentOf(client, id), content, 'content');
      const file = await client.open(id);
      const piece = Math.max(1, Math.ceil(content.length / 7));
      sameBytes(await readAll(client, file, 0, piece), content, 'content in pieces');
      await client.closeFile(file);
    },
  },
  {
    name: 'each file that is made is a node of its own, with a key of its own where there are keys',
    needs: [CREATES],
    async run(trial) {
      const { client, directory } = trial;
      const ids = new Set<bigint>();
      const keys = new Map<string, string>();
      for (const name of ['one', 'two', 'three']) {
        const { id, file } = await createFile(trial, name);
        await client.closeFile(file);
        equal((await client.lookup(directory, name)).id, id, `node of ${name}, looked up`);
        ids.add(id);
        const key = trial.keyOf(id);
        if (key === undefined) continue;
        equal(keys.get(key), undefined, `another file with the key ${key} of ${name}`);
        keys.set(key, name);
      }
      equal(ids.size, 3, 'nodes of three files');
    },
  },
  {
    name: 'a write beyond the end leaves zeros between',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client } = trial;
      const { file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, Buffer.from('begin'));
      await writeAll(client, file, 300_000, Buffer.from('end'));
      const expected = new Uint8Array(300_003);
      expected.set(Buffer.from('begin'));
      expected.set(Buffer.from('end'), 300_000);
      sameBytes(await readAll(client, file), expected, 'content');
      await client.closeFile(file);
    },
  },
  {
    name: 'a truncated file is shorter, or longer with zeros, whichever way it is named',
    needs: [CREATES, 'write', 'read', 'setattr'],
    async run(trial) {
      const { client } = trial;
      const content = noise(200_000);
      const { id, file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, content);
      equal((await client.change(id, { size: 100_001 })).size, 100_001, 'size after truncating');
      sameBytes(await readAll(client, file), content.subarray(0, 100_001), 'content after truncating');
      equal((await client.change(id, { size: 150_000, file })).size, 150_000, 'size after extending');
      const expected = new Uint8Array(150_000);
      expected.set(content.subarray(0, 100_001));
      sameBytes(await readAll(client, file), expected, 'content after extending');
      equal((await client.change(id, { size: 0 })).size, 0, 'size after truncating to nothing');
      await writeAll(client, file, 0, Buffer.from('anew'));
      await client.closeFile(file);
      sameBytes(await contentOf(client, id), Buffer.from('anew'), 'content written afterwards');
    },
  },
  {
    name: 'opening to truncate empties the file',
    needs: [CREATES, 'open', 'write', 'read'],
    async run(trial) {
      const { client } = trial;
      const { id } = await writeFile(trial, 'file', 'some content');
      const file = await client.open(id, OpenFlags.WRITE_ONLY | OpenFlags.TRUNC);
      equal((await client.stat(id)).size, 0, 'size');
      await writeAll(client, file, 0, Buffer.from('new'));
      await client.closeFile(file);
      sameBytes(await contentOf(client, id), Buffer.from('new'), 'content');
    },
  },
  {
    name: 'one handle sees at once what another one writes',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client } = trial;
      const { id, file } = await createFile(trial, 'file');
      const other = await client.open(id);
      for (const text of ['one', 'two and more', 'x']) {
        await writeAll(client, file, 0, Buffer.from(text));
        const read = await client.read(other, 0, text.length);
        sameBytes(read, Buffer.from(text), 'content through the other handle');
      }
      await client.closeFile(file);
      await client.closeFile(other);
    },
  },
  {
    name: 'a request that is given up has its result or EINTR, and does nothing after EINTR',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client, directory } = trial;
      const [before, after] = [noise(5000, 1), noise(5000, 2)];
      const { id, file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, before);
      const found = await unless(
        client.giveUp(() => client.lookup(directory, 'file')),
        'EINTR',
      );
      if (found !== undefined) equal(found.id, id, 'node by a lookup that was given up');
      const read = await unless(
        client.giveUp(() => client.read(file, 0, before.length)),
        'EINTR',
      );
      if (read !== undefined) sameBytes(read, before, 'a read that was given up, and has a result');
      const written = await unless(
        client.giveUp(() => client.write(file, 0, after)),
        'EINTR',
      );
      const count = written ?? 0;
      const content = Buffer.concat([after.subarray(0, count), before.subarray(count)]);
      const what = `content after a write that was given up, and ${written === undefined ? 'is EINTR' : `wrote ${count} bytes`}`;
      sameBytes(await readAll(client, file), content, what);
      if (written === undefined) {
        await delay(LATE_MS);
        sameBytes(await readAll(client, file), content, `${what}, a moment later`);
      }
      await client.closeFile(file);
    },
  },
  {
    name: 'content is the same after fsync and after everything is made durable',
    needs: [CREATES, 'write', 'read', 'fsync'],
    async run(trial) {
      const { client } = trial;
      const content = noise(70_000);
      const { id, file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, content);
      await client.fsync(file, true);
      await client.fsync(file, false);
      sameBytes(await readAll(client, file), content, 'content after fsync');
      await client.closeFile(file);
      if (trial.backend.syncfs !== undefined) await client.syncfs();
      sameBytes(await contentOf(client, id), content, 'content after syncfs');
    },
  },
  {
    name: 'a write moves mtime and ctime on',
    needs: [CREATES, 'write'],
    async run(trial) {
      const { client } = trial;
      const { id, stat, file } = await createFile(trial, 'file');
      await new Promise((resolve) => {
        setTimeout(resolve, 30);
      });
      await writeAll(client, file, 0, Buffer.from('x'));
      await client.closeFile(file);
      const after = await client.stat(id);
      holds(after.mtime > stat.mtime, 'mtime after a write', `later than ${stat.mtime} ns`, after.mtime);
      holds(after.ctime > stat.ctime, 'ctime after a write', `later than ${stat.ctime} ns`, after.ctime);
    },
  },
  {
    name: 'a removed name is gone, and what it named is read and written on while it is open',
    needs: [CREATES, 'unlink', 'write', 'read'],
    async run(trial) {
      const { client, directory, backend } = trial;
      const { id, file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, Buffer.from('before'));
      await client.unlink(directory, 'file');
      await fails(client.lookup(directory, 'file'), 'ENOENT', 'lookup of the removed name');
      await fails(client.unlink(directory, 'file'), 'ENOENT', 'removing it again');
      if (backend.readdir !== undefined) {
        equal((await namesIn(client, directory)).includes('file'), false, 'still listed');
      }
      equal((await client.stat(id, file)).nlink, 0, 'links');
      await writeAll(client, file, 6, Buffer.from(' and after'));
      sameBytes(await readAll(client, file), Buffer.from('before and after'), 'content');
      const second = await writeFile(trial, 'file', 'another');
      holds(second.id !== id, 'node of a new file of that name', 'another one', second.id);
      sameBytes(
        await readAll(client, file),
        Buffer.from('before and after'),
        'content, with the name taken anew',
      );
      await client.closeFile(file);
      sameBytes(await contentOf(client, second.id), Buffer.from('another'), 'content of the new file');
    },
  },
  {
    name: 'a removed file that nobody has open is stale, or has what was written last',
    needs: [CREATES, 'unlink', 'write', 'read'],
    async run(trial) {
      const { client, directory, backend } = trial;
      const { id, file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, Buffer.from('first'));
      if (backend.fsync !== undefined) await client.fsync(file, false);
      await writeAll(client, file, 0, Buffer.from('later, and longer'));
      await client.closeFile(file);
      await client.unlink(directory, 'file');
      const reopened = await unless(client.open(id), 'ESTALE', 'ENOENT');
      if (reopened !== undefined) {
        sameBytes(await readAll(client, reopened), Buffer.from('later, and longer'), 'content');
        await client.closeFile(reopened);
      }
      if (backend.setattr === undefined) return;
      const cut = await unless(client.change(id, { size: 5 }), 'ESTALE', 'ENOENT');
      if (cut !== undefined) equal(cut.size, 5, 'size after a change');
    },
  },
  {
    name: 'offsets beyond 4 GiB are not cut to 32 bits',
    needs: [CREATES, 'write', 'read', 'setattr'],
    async run(trial) {
      const { client } = trial;
      const { id, file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, Buffer.from('low'));
      const far = 2 ** 32 + 5;
      const refusals = ['EFBIG', 'ENOSPC', 'EDQUOT'] as const;
      await supported(client.write(file, far, Buffer.from('high')), ...refusals);
      equal((await client.stat(id, file)).size, far + 4, 'size');
      sameBytes(await client.read(file, far, 10), Buffer.from('high'), 'content beyond 4 GiB');
      sameBytes(await client.read(file, 0, 6), Buffer.from('low\0\0\0'), 'content at the beginning');
      equal((await client.change(id, { size: 3 })).size, 3, 'size after truncating');
      await client.closeFile(file);
    },
  },
  {
    name: 'files written at the same time do not mix',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client } = trial;
      const contents = Array.from({ length: 16 }, (_, i) => noise(10_000 + i * 7001, i + 1));
      const made = await Promise.all(contents.map((content, i) => writeFile(trial, `file${i}`, content)));
      const read = await Promise.all(made.map(({ id }) => contentOf(client, id)));
      read.forEach((content, i) => sameBytes(content, contents[i]!, `content of file ${i}`));
      const { id, file } = await createFile(trial, 'shared');
      const whole = noise(16 * 5000);
      const parts = Array.from({ length: 16 }, (_, i) => i * 5000);
      await Promise.all(parts.map((at) => writeAll(client, file, at, whole.subarray(at, at + 5000))));
      await client.closeFile(file);
      sameBytes(await contentOf(client, id), whole, 'one file, its parts written at the same time');
    },
  },
  {
    name: 'requests in sight together do what they do one by one',
    needs: [CREATES, 'write', 'read'],
    async run(trial) {
      const { client } = trial;
      const { id, file } = await createFile(trial, 'together');
      const block = 4096;
      const content = noise(BLOCKS * block, 5);
      const part = (i: number): Uint8Array => content.subarray(i * block, (i + 1) * block);
      const numbers = Array.from({ length: BLOCKS }, (_, i) => i);
      const written = await client.together(numbers.map((i) => () => client.write(file, i * block, part(i))));
      equal(
        written,
        numbers.map(() => block),
        'bytes written by each',
      );
      sameBytes(await readAll(client, file), content, 'what was written together');

      // Various lengths and offsets. The last ones reach beyond the end or begin there.
      const reads = [...numbers, BLOCKS - 0.5, BLOCKS, BLOCKS + 1].map((place, i) => ({
        at: place * block,
        size: [1, block, 100, 3 * block, 40_000][i % 5]!,
      }));
      const others = [() => client.stat(id), () => client.stat(id, file)];
      const answers = await client.together<unknown>([
        ...reads.map(
          ({ at, size }) =>
            () =>
              client.read(file, at, size),
        ),
        ...others,
        ...reads.map(
          ({ at, size }) =>
            () =>
              client.read(file, at, size),
        ),
      ]);
      const bytes = answers.filter((answer) => answer instanceof Uint8Array);
      equal(bytes.length, 2 * reads.length, 'reads answered with data');
      for (const [i, answer] of bytes.entries()) {
        const { at, size } = reads[i % reads.length]!;
        sameBytes(answer, content.subarray(at, at + size), `read ${i} of those sent together`);
      }

      await client.closeFile(file);
    },
  },
  {
    name: 'a temporary file has no name, and can be given one',
    needs: ['tmpfile', 'write', 'read'],
    async run(trial) {
      const { client, directory, backend } = trial;
      const flags = OpenFlags.READ_WRITE;
      const { id, stat, file } = await supported(
        client.tmpfile(directory, FileType.REGULAR | 0o600, flags),
        'EOPNOTSUPP',
      );
      equal(stat.nlink, 0, 'links');
      await writeAll(client, file, 0, Buffer.from('temporary'));
      if (backend.readdir !== undefined)
        equal(await namesIn(client, directory), [], 'names in its directory');
      if (backend.link !== undefined) {
        const named = await client.link(id, directory, 'named');
        equal([named.id, named.stat.nlink], [id, 1], 'node and links once it has a name');
        sameBytes(await contentOf(client, named.id), Buffer.from('temporary'), 'content once it has a name');
      }
      await client.closeFile(file);
    },
  },
];
