import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { OpenFlags, RenameFlags, XattrFlags, type AttributeChanges } from '../../../core/backend/index.js';
import { context, Mount, pattern, removeFolders, TestBucket, denied } from './support.js';

const EXCLUSIVE = OpenFlags.CREAT | OpenFlags.EXCL | OpenFlags.READ_WRITE;

describe('writing to a bucket', () => {
  let bucket: TestBucket;
  let mount: Mount;
  before(async () => {
    bucket = await TestBucket.create();
    mount = await Mount.open(bucket);
  });
  after(async () => {
    await mount.close();
    await removeFolders();
  });

  it('a new file is one object with its attributes, and is readable before the bucket has it', async () => {
    const file = await mount.create('new', 0o102, 0o640);
    await mount.write(file, 0, 'hello');
    await mount.write(file, 10, 'world');
    assert.equal((await mount.read(file, 0, 100)).toString('latin1'), 'hello\0\0\0\0\0world');
    assert.deepEqual((await mount.names('')).includes('new'), true);
    await mount.fsync(file);
    assert.equal((await bucket.get('new')).toString('latin1'), 'hello\0\0\0\0\0world');
    const { mode, uid, gid } = await bucket.metadata('new');
    assert.deepEqual([mode, uid, gid], ['33184', '1000', '100']);
    await mount.release(file);
  });

  it('a removed file that nobody has open is neither opened nor changed any more', async () => {
    const file = await mount.create('gone');
    await mount.write(file, 0, 'in the bucket');
    await mount.fsync(file);
    await mount.write(file, 0, 'in the journal');
    await mount.release(file);
    const { node } = file;
    await mount.backend.unlink(mount.root, 'gone', context);
    await assert.rejects(async () => mount.backend.open(node, 2, context), denied('ESTALE'));
    await assert.rejects(mount.backend.setattr(node, { size: 3 }, undefined, context), denied('ESTALE'));
    await assert.rejects(mount.backend.setattr(node, { mode: 0o600 }, undefined, context), denied('ESTALE'));
    assert.equal(node.staged, undefined);
  });

  it('a file that is opened while its name goes is stale, and one that was open before keeps its content', async () => {
    // Else a name may have gone before anybody sees it going.
    const single = await Mount.open(bucket, { removals: 'single' });
    for (const isOpen of [false, true]) {
      const file = await single.create('going');
      await single.write(file, 0, 'content');
      await single.fsync(file);
      if (!isOpen) await single.release(file);
      const { node } = file;
      const unlinking = single.backend.unlink(single.root, 'going', context);
      while (node.leaving === undefined) await setImmediate();
      const opening = Promise.resolve(single.backend.open(node, 0, context));
      if (isOpen) {
        const { file: second } = await opening;
        await unlinking;
        assert.equal((await single.read(second, 0, 100)).toString(), 'content');
        await single.release(second);
        await single.release(file);
      } else await assert.rejects(opening, denied('ESTALE'));
      await unlinking;
    }
    await single.close();
  });

  it('a file whose creation waits for room in the journal is not lost to a look-up', async () => {
    const full = await Mount.open(bucket, { maxDirty: '16m', maxDirtyAge: 600, writebackDelay: 600 });
    const resume = full.backend.mounted.files.pauseUploads();
    const large = await full.create('fills-the-journal');
    const chunk = Buffer.alloc(2 ** 20);
    for (let i = 0; i < 16; i++) await full.write(large, i * chunk.length, chunk);
    const writing = full.write(large, 0, chunk);
    const creating = full.create('waits');
    while (!full.root.children.has('waits')) await setImmediate();
    await full.backend.lookup(full.root, 'waits', context);
    resume();
    const file = await creating;
    await writing;
    await full.write(file, 0, 'content');
    assert.equal(await full.node('waits'), file.node);
    assert.equal((await full.content('waits')).toString(), 'content');
    await full.release(file);
    await full.release(large);
    await full.close();
  });

  it('random overwrites, truncation both ways and holes leave what a file would hold', async () => {
    const model = Buffer.alloc(700_000);
    let size = 0;
    const file = await mount.create('random');
    let state = 3;
    const next = (limit: number): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return state % limit;
    };
    for (let i = 0; i < 150; i++) {
      const at = next(600_000);
      const kind = next(10);
      if (kind < 7) {
        const bytes = pattern(1 + next(90_000), state);
        await mount.write(file, at, bytes);
        model.set(bytes, at);
        size = Math.max(size, at + bytes.length);
      } else if (kind === 7) {
        await mount.backend.setattr(file.node, { size: at }, file, context);
        model.fill(0, at);
        size = at;
      } else if (kind === 8) {
        const length = 1 + next(50_000);
        await mount.backend.fallocate(file.node, file, 3, at, length, context);
        model.fill(0, at, Math.min(size, at + length));
      } else await mount.fsync(file);
      const from = next(600_000);
      const expected = model.subarray(from, Math.max(from, Math.min(size, from + 50_000)));
      assert.ok((await mount.read(file, from, 50_000)).equals(expected), `step ${i}`);
    }
    await mount.fsync(file);
    assert.ok((await bucket.get('random')).equals(model.subarray(0, size)));
    await mount.release(file);
  });

  it('a large file goes up in parts, and a change in it moves only the parts that it touches', async () => {
    const large = await Mount.open(bucket, { partSize: '5m', maxDirtyAge: 600 });
    const bytes = pattern(24 * 2 ** 20);
    const file = await large.create('large');
    for (let at = 0; at < bytes.length; at += 2 ** 20)
      await large.write(file, at, bytes.subarray(at, at + 2 ** 20));
    await large.fsync(file);
    assert.ok((await bucket.get('large')).equals(bytes));
    assert.equal((await bucket.metadata('large'))['uid'], '1000');
    await large.release(file);

    const uploaded = large.backend.mounted.services.metrics.snapshot()['bytesUp'] ?? 0;
    const again = await large.openFile('large');
    await large.write(again, 12_345_678, 'changed');
    bytes.write('changed', 12_345_678);
    await large.fsync(again);
    await large.release(again);
    assert.ok((await bucket.get('large')).equals(bytes));
    assert.ok(large.requests('UploadPartCopy') >= 4);
    assert.ok((large.backend.mounted.services.metrics.snapshot()['bytesUp'] ?? 0) - uploaded < 6 * 2 ** 20);
    await large.close();
  });

  it('no file gets larger than maxFile: not by a write, an append, a new size or an allocation', async () => {
    const most = 2 ** 20;
    const small = await Mount.open(bucket, { maxFile: '1m', maxDirtyAge: 600 });
    const { backend } = small;
    const file = await small.create('limited', EXCLUSIVE);
    const resize = (size: number): Promise<unknown> =>
      Promise.resolve(backend.setattr(file.node, { size }, undefined, context));
    await assert.rejects(small.write(file, most - 3, 'four'), denied('EFBIG'));
    await assert.rejects(resize(most + 1), denied('EFBIG'));
    await assert.rejects(backend.fallocate(file.node, file, 0, most, 1, context), denied('EFBIG'));
    assert.equal(file.node.staged?.size ?? 0, 0);
    await small.write(file, most - 4, 'four');
    const appending = await small.openFile('limited', OpenFlags.READ_WRITE | OpenFlags.APPEND);
    await assert.rejects(small.write(appending, 0, '5'), denied('EFBIG'));
    await small.fsync(file);
    assert.equal((await bucket.get('limited')).length, most);
    await small.release(appending);
    await small.release(file);
    await small.close();
  });

  it('a file of the bucket that is larger than maxFile may get smaller', async () => {
    await bucket.put('larger', Buffer.alloc(2 ** 21, 1));
    const small = await Mount.open(bucket, { maxFile: '1m', maxDirtyAge: 600 });
    const file = await small.openFile('larger', OpenFlags.READ_WRITE);
    await small.backend.setattr(file.node, { size: 2 ** 21 - 1 }, file, context);
    await assert.rejects(small.write(file, 2 ** 20, 'x'), denied('EFBIG'));
    await small.write(file, 2 ** 20 - 1, 'x');
    await small.fsync(file);
    assert.equal((await bucket.get('larger')).length, 2 ** 21 - 1);
    await small.release(file);
    await small.close();
  });

  it('parts that are written again while they go up go up again', async () => {
    const large = await Mount.open(bucket, { partSize: '5m', maxDirtyAge: 600 });
    const bytes = pattern(20 * 2 ** 20, 5);
    const file = await large.create('rewritten');
    for (let at = 0; at < bytes.length; at += 2 ** 20) {
      await large.write(file, at, bytes.subarray(at, at + 2 ** 20));
      if (at % (4 * 2 ** 20) === 0 && at > 0) {
        const back = at - 3 * 2 ** 20;
        await large.write(file, back, 'again');
        bytes.write('again', back);
      }
    }
    await large.backend.setattr(file.node, { size: 17_000_000 }, file, context);
    await large.fsync(file);
    await large.release(file);
    assert.ok((await bucket.get('rewritten')).equals(bytes.subarray(0, 17_000_000)));
    await large.close();
  });

  it('appends through two handles follow one another', async () => {
    const first = await mount.create('log', OpenFlags.CREAT | OpenFlags.APPEND | 1);
    const second = await mount.openFile('log', OpenFlags.APPEND | 1);
    for (let i = 0; i < 5; i++) {
      await mount.write(first, 0, `a${i} `);
      await mount.write(second, 0, `b${i} `);
    }
    await mount.fsync(first);
    assert.equal((await bucket.get('log')).toString(), 'a0 b0 a1 b1 a2 b2 a3 b3 a4 b4 ');
    await mount.release(first);
    await mount.release(second);
  });

  it('a change of attributes moves no data, and keeps what other tools put into metadata', async () => {
    await bucket.put('foreign', 'data', { Metadata: { theirs: 'kept' }, ContentType: 'text/plain' });
    const mount = await Mount.open(bucket);
    const node = await mount.at('foreign');
    const uploaded = mount.backend.mounted.services.metrics.snapshot()['bytesUp'];
    await mount.backend.setattr(
      node,
      { mode: 0o600, uid: 4, mtime: { seconds: 1_500_000_000, nanoseconds: 7 } },
      undefined,
      context,
    );
    await mount.backend.setxattr(node, 'user.x', Buffer.from('value'), 0, false, context);
    await mount.backend.syncfs(context);
    const { mode, uid, mtime, theirs } = await bucket.metadata('foreign');
    assert.deepEqual([mode, uid, mtime, theirs], ['33152', '4', '1500000000.000000007', 'kept']);
    assert.equal(mount.backend.mounted.services.metrics.snapshot()['bytesUp'], uploaded);
    const other = await Mount.open(bucket, { readOnly: true });
    const value = await other.backend.getxattr(await other.at('foreign'), 'user.x', context);
    assert.equal(Buffer.from(value ?? []).toString(), 'value');
    assert.deepEqual(await other.backend.listxattr(await other.at('foreign'), context), ['user.x']);
    await other.close();
    await assert.rejects(
      mount.backend.setxattr(node, 'user.x', Buffer.from('v'), XattrFlags.CREATE, false, context),
      denied('EEXIST'),
    );
    await assert.rejects(
      mount.backend.setxattr(node, 'user.big', Buffer.alloc(3000), 0, false, context),
      denied('ENOSPC'),
    );
    await mount.backend.removexattr(node, 'user.x', context);
    assert.deepEqual(await mount.backend.listxattr(node, context), []);
    await mount.close();
  });

  it('labels of SELinux are kept where they are asked for; elsewhere they are hidden, and not lost', async () => {
    const name = 'security.selinux';
    const label = Buffer.from('system_u:object_r:etc_t:s0\0');
    const labelling = await Mount.open(bucket, { selinux: true });
    const file = await labelling.create('labelled');
    await labelling.backend.setxattr(file.node, name, label, 0, false, context);
    assert.deepEqual(await labelling.backend.listxattr(file.node, context), [name]);
    await labelling.fsync(file);
    await labelling.release(file);
    await labelling.close();
    const mount = await Mount.open(bucket);
    const node = await mount.at('labelled');
    assert.throws(() => mount.backend.getxattr(node, name, context), denied('EOPNOTSUPP'));
    assert.deepEqual(mount.backend.listxattr(node, context), []);
    await assert.rejects(mount.backend.setxattr(node, name, label, 0, false, context), denied('EOPNOTSUPP'));
    await assert.rejects(mount.backend.removexattr(node, name, context), denied('EOPNOTSUPP'));
    await mount.backend.setattr(node, { mode: 0o600 }, undefined, context);
    await mount.backend.syncfs(context);
    await mount.close();
    const again = await Mount.open(bucket, { selinux: true });
    const kept = await again.backend.getxattr(await again.at('labelled'), name, context);
    assert.deepEqual(Buffer.from(kept ?? []), label);
    await again.close();
  });

  it('directories, symbolic links and special files are objects that come back', async () => {
    await mount.backend.mkdir(mount.root, 'dir', 0o751, context);
    const directory = await mount.at('dir');
    await mount.backend.symlink(directory, 'link', '../a/\udcff target', context);
    await mount.backend.mknod(directory, 'fifo', 0o010644, 0, context);
    await mount.backend.mknod(directory, 'disk', 0o060600, 0x801, context);
    await assert.rejects(mount.backend.mkdir(mount.root, 'dir', 0o755, context), denied('EEXIST'));
    await assert.rejects(mount.backend.symlink(directory, 'link', 'x', context), denied('EEXIST'));
    await assert.rejects(mount.backend.link(), denied('EPERM'));
    const other = await Mount.open(bucket, { readOnly: true });
    const modeOf = async (path: string): Promise<string> =>
      (await other.backend.getattr(await other.at(path), undefined, context)).mode.toString(8);
    assert.deepEqual(
      [await modeOf('dir'), await modeOf('dir/link'), await modeOf('dir/fifo'), await modeOf('dir/disk')],
      ['40751', '120777', '10644', '60600'],
    );
    assert.equal((await other.backend.getattr(await other.at('dir/disk'), undefined, context)).rdev, 0x801);
    assert.equal(await other.backend.readlink(await other.at('dir/link'), context), '../a/\udcff target');
    await other.close();
    await assert.rejects(mount.backend.rmdir(mount.root, 'dir', context), denied('ENOTEMPTY'));
    for (const name of ['link', 'fifo', 'disk']) await mount.backend.unlink(directory, name, context);
    await mount.backend.rmdir(mount.root, 'dir', context);
    await mount.backend.syncfs(context);
    assert.deepEqual(await bucket.keys('dir'), []);
  });

  it('a directory that is given the owner and permissions which it has just got is not written again', async () => {
    const mount = await Mount.open(bucket, { metadataTtl: 60 });
    const { node } = await mount.backend.mkdir(mount.root, 'given-again', 0o750, context);
    const set = async (changes: AttributeChanges): Promise<number> => {
      const writes = mount.requests('PutObject');
      await mount.backend.setattr(node, changes, undefined, context);
      return mount.requests('PutObject') - writes;
    };
    const before = await mount.backend.getattr(node, undefined, context);
    assert.equal(await set({ uid: context.uid, gid: context.gid }), 0);
    assert.equal(await set({ mode: 0o750 }), 0);
    const after = await mount.backend.getattr(node, undefined, context);
    assert.notDeepEqual([after.ctime, after.ctimeNsec], [before.ctime, before.ctimeNsec]);
    assert.equal(await set({ mode: 0o700 }), 1);
    assert.equal(await set({ mode: 0o700, mtime: { seconds: 1, nanoseconds: 0 } }), 1);
    await mount.close();
    assert.equal((await bucket.metadata('given-again/'))['mode'], String(0o40700));
    // Another mount can't know that nobody has changed it meanwhile.
    const next = await Mount.open(bucket, { metadataTtl: 60 });
    const writes = next.requests('PutObject');
    await next.backend.setattr(await next.at('given-again'), { mode: 0o700 }, undefined, context);
    assert.equal(next.requests('PutObject') - writes, 1);
    await next.close();
  });

  it('a directory that was there only by its files stays when the last of them goes', async () => {
    await bucket.put('implied/only', 'x');
    const mount = await Mount.open(bucket);
    await mount.backend.unlink(await mount.at('implied'), 'only', context);
    assert.deepEqual(await bucket.keys('implied'), ['implied/']);
    assert.deepEqual(await mount.names('implied'), []);
    await mount.close();
  });

  it('a rename moves a file with its attributes, over another if there is one', async () => {
    await mount.put('from', 'content');
    await mount.put('to', 'old');
    const moved = await mount.at('from');
    await mount.backend.rename(mount.root, 'from', mount.root, 'to', 0, context);
    assert.equal((await bucket.get('to')).toString(), 'content');
    assert.deepEqual(await bucket.keys('from'), []);
    assert.equal(await mount.at('to'), moved);
    assert.equal((await bucket.metadata('to'))['mode'], '33188');
    await mount.put('other', '');
    await assert.rejects(
      mount.backend.rename(mount.root, 'to', mount.root, 'other', RenameFlags.NOREPLACE, context),
      denied('EEXIST'),
    );
    await assert.rejects(
      mount.backend.rename(mount.root, 'to', mount.root, 'other', RenameFlags.EXCHANGE, context),
      denied('EINVAL'),
    );
  });

  it('a file that is saved by renaming costs one upload, and no copy', async () => {
    const copies = mount.requests('CopyObject');
    const file = await mount.create('.save.tmp', EXCLUSIVE);
    await mount.write(file, 0, 'saved');
    await mount.backend.rename(mount.root, '.save.tmp', mount.root, 'saved', 0, context);
    await mount.write(file, 5, ' twice');
    await mount.fsync(file);
    await mount.release(file);
    assert.equal((await bucket.get('saved')).toString(), 'saved twice');
    assert.deepEqual(await bucket.keys('.save'), []);
    assert.equal(mount.requests('CopyObject'), copies);
  });

  it('of files that are saved over another in turn, the last counts, and the name can be moved and removed', async () => {
    const slow = await Mount.open(bucket, { writebackDelay: 600 });
    const save = async (content: string): Promise<void> => {
      const file = await slow.create('turn.tmp', EXCLUSIVE);
      await slow.write(file, 0, content);
      await slow.release(file);
      await slow.backend.rename(slow.root, 'turn.tmp', slow.root, 'turn', 0, context);
    };
    await slow.put('turn', 'old');
    for (const content of ['first', 'second', 'third']) await save(content);
    await slow.backend.syncfs(context);
    assert.equal((await bucket.get('turn')).toString(), 'third');

    await save('moved');
    await slow.backend.rename(slow.root, 'turn', slow.root, 'turned', 0, context);
    assert.equal(await slow.node('turn'), undefined);
    assert.deepEqual(await bucket.keys('turn'), []);
    await slow.backend.syncfs(context);
    assert.equal((await bucket.get('turned')).toString(), 'moved');

    await slow.put('turn', 'old');
    await save('removed');
    await slow.backend.unlink(slow.root, 'turn', context);
    assert.deepEqual(await bucket.keys('turn'), ['turned']);
    assert.deepEqual(
      (await slow.names('')).filter((name) => name.startsWith('turn')),
      ['turned'],
    );
    assert.equal(slow.backend.mounted.services.metrics.snapshot()['conflicts'], 0);
    await slow.close();
  });

  it('of a rename and a creation of one name at one moment, one comes first', async () => {
    const slow = await Mount.open(bucket, { writebackDelay: 600 });
    for (let round = 0; round < 10; round++) {
      const name = `contended${round}`;
      const file = await slow.create('contender', EXCLUSIVE);
      await slow.write(file, 0, 'renamed');
      await slow.release(file);
      const [created] = await Promise.all([
        slow.create(name),
        slow.backend.rename(slow.root, 'contender', slow.root, name, 0, context),
        slow.node(name),
        slow.node('contender'),
      ]);
      assert.equal(await slow.node('contender'), undefined);
      await slow.release(created);
      await slow.backend.syncfs(context);
      const content = await slow.content(name);
      assert.ok(content.equals(await bucket.get(name)));
      assert.equal(content.toString(), 'renamed');
    }
    assert.equal(slow.backend.mounted.services.metrics.snapshot()['conflicts'], 0);
    await slow.close();
  });

  it('a node that was let go while its data waited stays the same file when it is taken into use again', async () => {
    const slow = await Mount.open(bucket, { writebackDelay: 600 });
    const file = await slow.create('let-go');
    await slow.write(file, 0, 'content');
    await slow.release(file);
    slow.backend.forget(file.node);
    const found = await slow.at('let-go');
    // As the engine does with each node that it is given.
    slow.backend.key(found);
    await slow.backend.syncfs(context);
    assert.equal(await slow.at('let-go'), found);
    slow.backend.forget(found);
    assert.notEqual(await slow.at('let-go'), found);
    await slow.close();
  });

  it('a directory that another writer removed is there as long as data below it waits', async () => {
    const slow = await Mount.open(bucket, { writebackDelay: 600, metadataTtl: 0 });
    await slow.backend.mkdir(slow.root, 'swept', 0o755, context);
    const file = await slow.create('swept/file');
    await slow.write(file, 0, 'content');
    await slow.release(file);
    await bucket.remove('swept/');
    assert.equal((await slow.content('swept/file')).toString(), 'content');
    assert.ok((await slow.names('')).includes('swept'));
    await slow.backend.syncfs(context);
    assert.equal((await slow.content('swept/file')).toString(), 'content');
    await slow.close();
  });

  it('a directory moves with everything below it, open and unsaved files too', async () => {
    const mount = await Mount.open(bucket);
    await mount.backend.mkdir(mount.root, 'tree', 0o755, context);
    await mount.backend.mkdir(await mount.at('tree'), 'sub', 0o700, context);
    for (let i = 0; i < 30; i++) await mount.put(`tree/sub/f${i}`, `content ${i}`);
    const open = await mount.openFile('tree/sub/f3');
    assert.equal((await mount.read(open, 0, 4)).toString(), 'cont');
    const unsaved = await mount.create('tree/unsaved');
    await mount.write(unsaved, 0, 'not yet');
    await mount.backend.rename(mount.root, 'tree', mount.root, 'moved', 0, context);
    assert.deepEqual(await bucket.keys('tree'), []);
    assert.equal((await bucket.keys('moved/')).length, 33);
    assert.equal((await mount.content('moved/sub/f29')).toString(), 'content 29');
    assert.equal((await mount.read(open, 8, 10)).toString(), '3');
    await mount.write(unsaved, 7, ', but now');
    await mount.fsync(unsaved);
    assert.equal((await bucket.get('moved/unsaved')).toString(), 'not yet, but now');
    assert.equal(
      (await mount.backend.getattr(await mount.at('moved/sub'), undefined, context)).mode,
      0o40700,
    );
    assert.equal(await mount.node('tree'), undefined);
    await assert.rejects(
      mount.backend.rename(mount.root, 'moved', await mount.at('moved/sub'), 'x', 0, context),
      denied('EINVAL'),
    );
    await mount.release(open);
    await mount.release(unsaved);
    await mount.close();
  });

  it('an open file that is removed or replaced can still be read and written, and leaves nothing behind', async () => {
    await mount.put('gone', 'the content');
    await mount.put('replaced', 'older');
    await mount.put('newer', 'newer');
    const fresh = await Mount.open(bucket);
    const gone = await fresh.openFile('gone');
    const replaced = await fresh.openFile('replaced');
    await fresh.backend.unlink(fresh.root, 'gone', context);
    await fresh.backend.rename(fresh.root, 'newer', fresh.root, 'replaced', 0, context);
    assert.deepEqual(await bucket.keys('gone'), []);
    assert.equal((await fresh.read(gone, 0, 100)).toString(), 'the content');
    await fresh.write(gone, 4, 'CON');
    await fresh.fsync(gone);
    assert.equal((await fresh.read(gone, 0, 100)).toString(), 'the CONtent');
    assert.equal((await fresh.read(replaced, 0, 100)).toString(), 'older');
    assert.equal((await fresh.content('replaced')).toString(), 'newer');
    assert.equal(await fresh.node('.virtiofs-kit'), undefined);
    await fresh.release(gone);
    await fresh.release(replaced);
    assert.deepEqual(await bucket.keys('.virtiofs-kit/'), []);
    assert.deepEqual(await bucket.keys('gone'), []);
    await fresh.close();
  });

  it('names that are no UTF-8, and names too long for a key, are kept or refused', async () => {
    for (const name of ['caf\udce9', 'new\nline', 'a b+c%20', '\u201b80', '<&>"', '日本']) {
      await mount.put(name, name.length.toString());
    }
    const other = await Mount.open(bucket, { readOnly: true });
    const names = await other.names('');
    for (const name of ['caf\udce9', 'new\nline', 'a b+c%20', '\u201b80', '<&>"', '日本']) {
      assert.ok(names.includes(name), name);
      assert.equal((await other.content(name)).toString(), name.length.toString());
    }
    await other.close();
    let parent = mount.root as Awaited<ReturnType<typeof mount.at>>;
    for (let i = 0; i < 4; i++)
      parent = (await mount.backend.mkdir(parent, 'x'.repeat(250), 0o755, context)).node;
    await assert.rejects(mount.backend.mkdir(parent, 'x'.repeat(30), 0o755, context), denied('ENAMETOOLONG'));
  });

  it('with close=wait the bucket has the data when close returns, and with durability=local fsync needs no bucket', async () => {
    const waits = await Mount.open(bucket, { close: 'wait', writebackDelay: 600 });
    const file = await waits.create('waited');
    await waits.write(file, 0, 'data');
    await waits.backend.flush(file.node, file, context);
    assert.equal((await bucket.get('waited')).toString(), 'data');
    await waits.release(file);
    await waits.close();
    const local = await Mount.open(bucket, { durability: 'local', writebackDelay: 600 });
    const other = await local.create('local');
    await local.write(other, 0, 'data');
    const puts = local.requests('PutObject');
    await local.fsync(other);
    assert.equal(local.requests('PutObject'), puts);
    await local.release(other);
    await local.close();
    assert.equal((await bucket.get('local')).toString(), 'data');
  });
});

describe('two mounts of one bucket', () => {
  after(removeFolders);

  it('race for an exclusive creation: one wins, the other is told', async () => {
    const bucket = await TestBucket.create();
    const mounts = await Promise.all([Mount.open(bucket), Mount.open(bucket)]);
    for (let round = 0; round < 20; round++) {
      const results = await Promise.allSettled(
        mounts.map((mount) => mount.create(`lock${round}`, EXCLUSIVE)),
      );
      const won = results.filter(({ status }) => status === 'fulfilled');
      assert.equal(won.length, 1, `round ${round}`);
      const lost = results.find((result) => result.status === 'rejected');
      assert.ok(denied('EEXIST')(lost?.reason));
    }
    for (const mount of mounts) await mount.close();
  });

  it('race for a first creation and for an overwrite: one wins, the other is told and its data is kept', async () => {
    const bucket = await TestBucket.create();
    const mounts = await Promise.all([Mount.open(bucket), Mount.open(bucket)]);
    for (let round = 0; round < 10; round++) {
      const name = `f${round % 5}`;
      // Both open and write before either is told to save. Otherwise one could save before the
      // other opens, and both would win.
      const files = await Promise.all(
        mounts.map(async (mount, who) => {
          const file = await mount.create(name, OpenFlags.CREAT | OpenFlags.READ_WRITE);
          await mount.write(file, 0, `round ${round} of ${who}`);
          return file;
        }),
      );
      const results = await Promise.allSettled(mounts.map((mount, who) => mount.fsync(files[who]!)));
      const content = (await bucket.get(name)).toString();
      for (const [who, result] of results.entries()) {
        if (result.status === 'fulfilled') assert.equal(content, `round ${round} of ${who}`);
        else assert.ok(denied('ESTALE')(result.reason), String(result.reason));
      }
      assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1, `round ${round}`);
      // Both see the winner's content from now on.
      for (const mount of mounts) assert.equal((await mount.content(name)).toString(), content);
    }
    const conflicts = mounts.map(
      (mount) => mount.backend.mounted.services.metrics.snapshot()['conflicts'] ?? 0,
    );
    assert.equal(conflicts[0]! + conflicts[1]!, 10);
    for (const mount of mounts) await mount.close();
  });
});
