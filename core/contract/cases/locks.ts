import { OpenFlags } from '../../backend/index.js';
import { LockType } from '../../state/index.js';
import { contentOf, type ContractCase, createFile, CREATES, writeAll, writeFile } from '../case.js';
import { equal, fails, sameBytes, unless } from '../expect.js';

const { READ, WRITE, UNLOCK } = LockType;

/**
 * Rules for locks. The engine keeps them; a backend with `lock` has other hosts keep to them, too.
 */
export const lockCases: readonly ContractCase[] = [
  {
    name: 'a lock is got, kept from others, and given up, by whoever asks',
    needs: [CREATES],
    async run(trial) {
      const { client } = trial;
      const { file } = await createFile(trial, 'file');
      equal(await client.lockInTheWay(file, WRITE, 1n), UNLOCK, 'lock in the way of the first');
      await client.lock(file, WRITE, 1n);
      await fails(client.lock(file, READ, 2n), 'EAGAIN', 'a lock beside an exclusive one');
      equal(await client.lockInTheWay(file, READ, 2n), WRITE, 'lock in the way');
      await client.lock(file, READ, 1n);
      await client.lock(file, READ, 2n);
      await fails(client.lock(file, WRITE, 1n), 'EAGAIN', 'an exclusive lock beside a shared one');
      await client.lock(file, UNLOCK, 1n);
      await client.lock(file, WRITE, 2n);
      await client.lock(file, UNLOCK, 2n);
      await client.lock(file, UNLOCK, 2n);
      await client.lock(file, WRITE, 3n);
      await client.lock(file, UNLOCK, 3n);
      equal(await client.lockInTheWay(file, WRITE, 1n), UNLOCK, 'lock in the way of the last');
      await client.closeFile(file);
    },
  },
  {
    name: 'what is written under a lock is read under the next one, and after a restart',
    needs: [CREATES, 'write', 'read', ['restore', 'resolve']],
    async run(trial) {
      const { client, directory } = trial;
      const { id } = await writeFile(trial, 'file', 'before');
      const [a, b] = [await client.open(id, OpenFlags.READ_WRITE), await client.open(id)];
      await client.lock(a, WRITE, 1n);
      await writeAll(client, a, 0, Buffer.from('under a lock'));
      await client.lock(a, UNLOCK, 1n);
      await client.lock(b, READ, 2n);
      sameBytes(await client.read(b, 0, 100), Buffer.from('under a lock'), 'content under the next lock');
      await client.lock(b, UNLOCK, 2n);
      await client.closeFile(a);
      await client.closeFile(b);
      equal((await client.lookup(directory, 'file')).stat.size, 12, 'size');
      const next = await trial.restart();
      const found = await next.client.lookup(next.directory, 'file');
      sameBytes(
        await contentOf(next.client, found.id),
        Buffer.from('under a lock'),
        'content after a restart',
      );
    },
  },
  {
    name: "a lock that was not given up before a restart is in nobody's way after it",
    needs: [CREATES, ['restore', 'resolve']],
    async run(trial) {
      const { file } = await createFile(trial, 'file');
      await trial.client.lock(file, WRITE, 1n);
      const next = await trial.restart();
      const { id } = await next.client.lookup(next.directory, 'file');
      const again = await next.client.open(id, OpenFlags.READ_WRITE);
      await next.client.lock(again, WRITE, 2n);
      await next.client.lock(again, UNLOCK, 2n);
      await next.client.closeFile(again);
    },
  },
  {
    name: 'a file that loses its name while it is locked stays readable, and its lock can be given up',
    needs: [CREATES, 'write', 'read', 'unlink'],
    async run(trial) {
      const { client, directory } = trial;
      const { file } = await createFile(trial, 'file');
      await writeAll(client, file, 0, Buffer.from('content'));
      await client.lock(file, WRITE, 1n);
      await client.unlink(directory, 'file');
      sameBytes(await client.read(file, 0, 100), Buffer.from('content'), 'content without a name');
      await client.lock(file, UNLOCK, 1n);
      // Nobody else can have it: whether it can be locked again is the backend's.
      await unless(client.lock(file, WRITE, 2n), 'ENOLCK', 'EOPNOTSUPP');
      await client.closeFile(file);
    },
  },
];
