import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { CreateBucketCommand } from '@aws-sdk/client-s3';
import { OpenFlags } from '../../../../core/backend/index.js';
import { context, Mount, pattern, removeFolders, TestBucket } from '../support.js';

const ALL_USERS = 'http://acs.amazonaws.com/groups/global/AllUsers';
const LARGE_BYTES = 11 * 2 ** 20;

/** What an object has, by the name of the row in backends/s3/README.md. */
interface Row {
  readonly what: string;
  readonly put: Readonly<Record<string, string>>;
  /** What a reader of the object sees of it. */
  readonly shown: (bucket: TestBucket, path: string) => Promise<unknown>;
}

const header =
  (...names: string[]) =>
  async (bucket: TestBucket, path: string): Promise<unknown> => {
    const { headers } = await bucket.plain('HEAD', path);
    return names.map((name) => headers[name]);
  };
const document =
  (subresource: string, pattern: RegExp) =>
  async (bucket: TestBucket, path: string): Promise<unknown> => {
    const { body } = await bucket.plain('GET', `${path}?${subresource}`);
    return [...body.matchAll(pattern)].map((match) => match.slice(1).join()).sort();
  };

const LOCK = [
  'x-amz-object-lock-mode',
  'x-amz-object-lock-retain-until-date',
  'x-amz-object-lock-legal-hold',
];
const tomorrow = `${new Date(Date.now() + 86_400_000).toISOString().slice(0, 19)}Z`;

const rows: readonly Row[] = [
  ...(
    [
      ['Content-Type', 'text/x-own; charset=utf-8'],
      ['Cache-Control', 'max-age=3'],
      ['Content-Disposition', 'attachment; filename="x.txt"'],
      ['Content-Language', 'de'],
      ['Content-Encoding', 'gzip'],
      ['Expires', 'Wed, 21 Oct 2099 07:28:00 GMT'],
      ['Expires', '0'],
      ['x-amz-website-redirect-location', '/elsewhere'],
    ] as const
  ).map(([name, value]) => ({
    what: `${name}: ${value}`,
    put: { [name.toLowerCase()]: value },
    shown: header(name.toLowerCase()),
  })),
  {
    what: 'grants',
    put: {
      'x-amz-grant-full-control': 'id="test"',
      'x-amz-grant-read': `uri="${ALL_USERS}"`,
      'x-amz-grant-read-acp': 'uri="http://acs.amazonaws.com/groups/global/AuthenticatedUsers"',
    },
    shown: document('acl', /<(?:URI|ID)>([^<]*)<.*?<Permission>([^<]*)</g),
  },
  {
    what: 'grants by a name',
    put: { 'x-amz-acl': 'public-read' },
    shown: document('acl', /<(?:URI|ID)>([^<]*)<.*?<Permission>([^<]*)</g),
  },
  {
    what: 'tags',
    put: { 'x-amz-tagging': 'project=a%26b&empty=&with%20space=1%2B1' },
    shown: document('tagging', /<Key>([^<]*)<\/Key><Value>([^<]*)</g),
  },
  {
    what: 'storage class',
    put: { 'x-amz-storage-class': 'COLD' },
    shown: header('x-amz-storage-class'),
  },
  {
    what: 'encryption with a key of the key service',
    put: {
      'x-amz-server-side-encryption': 'aws:kms',
      'x-amz-server-side-encryption-aws-kms-key-id': 'k',
    },
    shown: header('x-amz-server-side-encryption', 'x-amz-server-side-encryption-aws-kms-key-id'),
  },
  {
    what: 'retention and legal hold',
    put: { [LOCK[0]!]: 'GOVERNANCE', [LOCK[1]!]: tomorrow, [LOCK[2]!]: 'ON' },
    shown: header(...LOCK),
  },
];

describe('what an object has beside its bytes and metadata', () => {
  let bucket: TestBucket;
  let locking: TestBucket;
  before(async () => {
    bucket = await TestBucket.create();
    locking = TestBucket.open(`${bucket.name}-locking`, bucket.endpoint);
    const create = new CreateBucketCommand({ Bucket: locking.name, ObjectLockEnabledForBucket: true });
    await bucket.client.send(create);
  });
  after(removeFolders);

  for (const [index, { what, put, shown }] of rows.entries()) {
    it(`is kept: ${what}`, async () => {
      const target = what.includes('retention') ? locking : bucket;
      // Headers of one kind go the same way.
      const inParts = !Object.keys(put)[0]!.startsWith('c');
      const mount = await Mount.open(target, { partSize: '5m', copyLimit: '6m' });
      try {
        const make = async (key: string, body: Buffer = Buffer.from('data')): Promise<void> => {
          const { status, body: reason } = await target.plain('PUT', key, put, body);
          assert.equal(status, 200, reason);
        };
        const paths = [`row${index}`, `row${index}-dir/below/file`, `row${index}-dir/`] as const;
        for (const path of paths) await make(path);
        if (inParts) await make(`row${index}-large`, pattern(LARGE_BYTES));
        const given = await shown(target, paths[0]);
        assert.notDeepEqual(given, await shown(bucket, 'not-there'));
        const kept = async (path: string, done: string): Promise<void> =>
          assert.deepEqual(await shown(target, path), given, done);

        const [file] = paths;
        await mount.backend.setattr(await mount.at(file), { mode: 0o600 }, undefined, context);
        await mount.backend.syncfs(context);
        assert.equal((await target.metadata(file))['mode'], String(0o100600));
        await kept(file, 'chmod');

        const opened = await mount.openFile(file, OpenFlags.WRITE_ONLY | OpenFlags.APPEND);
        await mount.write(opened, 4, ' and more');
        await mount.fsync(opened);
        assert.equal((await target.get(file)).toString(), 'data and more');
        await kept(file, 'append');
        if (inParts) {
          await mount.write(opened, 13, pattern(LARGE_BYTES));
          await mount.fsync(opened);
          assert.equal((await target.get(file)).length, 13 + LARGE_BYTES);
          await kept(file, 'an upload in parts');
        }
        await mount.backend.setattr(opened.node, { size: 3 }, opened, context);
        await mount.fsync(opened);
        await mount.release(opened);
        assert.equal((await target.get(file)).toString(), 'dat');
        await kept(file, 'truncate');

        await mount.backend.rename(mount.root, file, mount.root, `${file}-moved`, 0, context);
        await kept(`${file}-moved`, 'mv');
        if (inParts) {
          await mount.backend.rename(mount.root, `${file}-large`, mount.root, `${file}-l`, 0, context);
          assert.ok((await target.get(`${file}-l`)).equals(pattern(LARGE_BYTES)));
          await kept(`${file}-l`, 'mv of a large file');
        }

        const directory = await mount.at(`${file}-dir`);
        await mount.backend.setattr(directory, { mode: 0o700 }, undefined, context);
        await kept(paths[2], 'chmod of a directory');
        await mount.backend.rename(mount.root, `${file}-dir`, mount.root, `${file}-tree`, 0, context);
        await kept(`${file}-tree/below/file`, 'mv of a directory, below');
        await kept(`${file}-tree/`, 'mv of a directory');
        assert.deepEqual(
          mount.log.lines.filter((line) => !line.includes('ignores some conditions')),
          [],
        );
      } finally {
        await mount.close();
      }
    });
  }

  it('is not asked for before a rewrite of what this mount has just written', async () => {
    const asked = ['HeadObject', 'GetObjectAcl', 'GetObjectTagging'] as const;
    const counts = (mount: Mount): number[] => asked.map((name) => mount.requests(name));
    const append = async (mount: Mount, name: string): Promise<void> => {
      const file = await mount.openFile(name, OpenFlags.WRITE_ONLY | OpenFlags.APPEND);
      await mount.write(file, 4, ' and more');
      await mount.fsync(file);
      await mount.release(file);
    };
    const rewrite = async (mount: Mount, name: string): Promise<void> => {
      await mount.backend.setattr(await mount.at(name), { mode: 0o600 }, undefined, context);
      await mount.backend.syncfs(context);
      await append(mount, name);
    };
    const lasting = await Mount.open(bucket, { metadataTtl: 3600, openTtl: 3600 });
    await bucket.plain('PUT', 'mine-tagged', { 'x-amz-tagging': 'a=1' }, Buffer.from('data'));
    await append(lasting, 'mine-tagged');
    await lasting.put('mine', 'data');
    await lasting.backend.mkdir(lasting.root, 'mine-dir', 0o755, context);
    const before = counts(lasting);
    await rewrite(lasting, 'mine');
    await append(lasting, 'mine-tagged');
    await lasting.backend.setattr(await lasting.at('mine-dir'), { mode: 0o700 }, undefined, context);
    assert.deepEqual(counts(lasting), before);
    assert.ok((await bucket.plain('GET', 'mine-tagged?tagging')).body.includes('<Key>a</Key>'));
    await bucket.plain('PUT', 'mine', { 'x-amz-tagging': 'b=2' }, Buffer.from('theirs'));
    await lasting.close();

    const doubting = await Mount.open(bucket, { metadataTtl: 0 });
    await doubting.put('doubted', 'data');
    const [, acls = 0, tags = 0] = counts(doubting);
    await rewrite(doubting, 'doubted');
    assert.deepEqual(counts(doubting).slice(1), [acls + 2, tags + 2]);
    await rewrite(doubting, 'mine');
    assert.ok((await bucket.plain('GET', 'mine?tagging')).body.includes('<Key>b</Key>'));
    await doubting.close();
  });

  it('is not given to other objects', async () => {
    const mount = await Mount.open(bucket);
    await bucket.plain('PUT', 'public', { 'x-amz-acl': 'public-read', 'x-amz-tagging': 'a=1' });
    await mount.put('public', 'changed');
    await mount.put('private', 'new');
    for (const [name, grants, tags] of [
      ['public', 2, '<Key>a</Key>'],
      ['private', 1, '<TagSet></TagSet>'],
    ] as const) {
      const { body } = await bucket.plain('GET', `${name}?acl`);
      assert.equal(body.match(/<Grant>/g)?.length, grants);
      assert.ok((await bucket.plain('GET', `${name}?tagging`)).body.includes(tags));
    }
    await mount.close();
  });

  for (const preserve of ['all', 'headers']) {
    it(`is that of acl for new objects alone, with preserve=${preserve}`, async () => {
      const mount = await Mount.open(bucket, { acl: 'public-read', preserve });
      const name = (kind: string): string => `${kind}-${preserve}`;
      await bucket.put(name('private'), 'of others');
      await mount.put(name('private'), 'changed');
      await mount.put(name('new'), 'content');
      await mount.release(await mount.create(name('exclusive'), 0o302));
      await mount.put(name('large'), Buffer.alloc(20 * 2 ** 20));
      const grants = async (of: string): Promise<number | undefined> =>
        (await bucket.plain('GET', `${of}?acl`)).body.match(/<Grant>/g)?.length;
      assert.equal(await grants(name('private')), 1);
      for (const kind of ['new', 'exclusive', 'large']) assert.equal(await grants(name(kind)), 2, kind);
      await mount.close();
    });
  }

  it('of grants and tags nothing is asked or kept with preserve=headers', async () => {
    const mount = await Mount.open(bucket, { preserve: 'headers' });
    await bucket.plain('PUT', 'dropped', { 'x-amz-acl': 'public-read', 'cache-control': 'no-store' });
    await mount.put('dropped', 'changed');
    const { body } = await bucket.plain('GET', 'dropped?acl');
    assert.equal(body.match(/<Grant>/g)?.length, 1);
    assert.equal((await bucket.plain('HEAD', 'dropped')).headers['cache-control'], 'no-store');
    assert.equal(mount.requests('GetObjectAcl'), 0);
    await mount.close();
  });

  it('a removed file that is still open is granted to nobody, and goes', async () => {
    const mount = await Mount.open(locking);
    const lock = { [LOCK[0]!]: 'GOVERNANCE', [LOCK[1]!]: tomorrow };
    const put = { 'x-amz-acl': 'public-read', ...lock };
    assert.equal((await locking.plain('PUT', 'gone', put, Buffer.from('data'))).status, 200);
    const file = await mount.openFile('gone');
    await mount.backend.unlink(mount.root, 'gone', context);
    const [hidden] = await locking.keys('.virtiofs-kit/');
    const { body } = await locking.plain('GET', `${hidden}?acl`);
    assert.equal(body.match(/<Grant>/g)?.length, 1);
    assert.deepEqual(await header(...LOCK)(locking, hidden!), [undefined, undefined, undefined]);
    await mount.release(file);
    assert.deepEqual(await locking.keys('gone'), []);
    assert.deepEqual(await locking.keys('.virtiofs-kit/'), []);
    await mount.close();
  });

  it('and the metadata too, where attributes are taken from listings alone', async () => {
    const Metadata = { mode: '33261', theirs: 'kept' };
    await bucket.put('unasked', 'data', { Metadata, CacheControl: 'no-store' });
    const mount = await Mount.open(bucket, { attributes: 'listing' });
    const file = await mount.openFile('unasked', OpenFlags.WRITE_ONLY | OpenFlags.APPEND);
    await mount.write(file, 4, ' and more');
    await mount.fsync(file);
    await mount.release(file);
    const { mode, theirs } = await bucket.metadata('unasked');
    assert.deepEqual([mode, theirs], ['33261', 'kept']);
    await bucket.put('link', 'target', { Metadata: { mode: '41471', theirs: 'kept' } });
    await mount.backend.rename(mount.root, 'link', mount.root, 'link-moved', 0, context);
    const moved = await bucket.metadata('link-moved');
    assert.deepEqual([moved['mode'], moved['theirs']], ['41471', 'kept']);
    await mount.close();
  });
});
