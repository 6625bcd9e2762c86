import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { type Backend, Errno } from '../../core/backend/index.js';
import { checkBackend } from '../../core/contract/index.js';
import gitCommits from '../../examples/git-commits.js';
import httpDirectory from '../../examples/http-directory.js';
import keyValue from '../../examples/key-value.js';
import passphraseVault from '../../examples/passphrase-vault.js';
import requestLog from '../../examples/request-log.js';
import sqliteTables from '../../examples/sqlite-tables.js';
import tarArchive from '../../examples/tar-archive.js';
import zipArchive from '../../examples/zip-archive.js';
import { engine, withGuest } from '../support/engine.js';
import { exampleEnvironment, exampleTrials, webServer } from '../support/examples.js';
import { type FuseClient, ROOT } from '../support/fuse-client.js';
import {
  keepingLog,
  MountedExport,
  pluginEnvironment,
  shell,
  temporaryDirectory,
} from '../support/host-mount.js';

interface Kept {
  /** Rules that must hold at least; others are about methods that the example lacks. */
  readonly least: number;
  readonly directory?: string;
  /** Rules that may be broken. */
  readonly except?: RegExp;
}

async function keepsContract(
  create: () => Backend | Promise<Backend>,
  { least, directory = '', except }: Kept,
): Promise<void> {
  const log = keepingLog();
  const { results, passed } = await checkBackend({ create, log, directory });
  const failed = results.filter(({ name, outcome }) => outcome === 'failed' && except?.test(name) !== true);
  assert.deepEqual(
    failed.map(({ name, reason }) => `${name}: ${reason}`),
    [],
  );
  assert.ok(passed >= least, `${passed} rules`);
}

async function contentOf(client: FuseClient, path: string): Promise<string> {
  const { nodeid, attr } = await client.walk(path);
  const { fh } = await client.open(nodeid);
  let content = Buffer.alloc(0);
  while (content.length < attr.size)
    content = Buffer.concat([content, await client.read(nodeid, fh, content.length, 2 ** 17)]);
  await client.release(nodeid, fh);
  return content.toString();
}

describe('the key-value example', () => {
  it('keeps the contract', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const backend = keyValue.create({ store: join(folder.path, 'store') }, pluginEnvironment()) as Backend;
    await keepsContract(() => backend, { least: 30, except: KEEPS_NO_MODES });
  });

  it('keeps what was written in its document', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const store = join(folder.path, 'store.json');
    const create = () => keyValue.create({ store }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      const { entry, open } = await client.create(ROOT, 'answer');
      await client.write(entry.nodeid, open.fh, 0, Buffer.from('42\n'));
      await client.flush(entry.nodeid, open.fh);
      await client.release(entry.nodeid, open.fh);
      await client.rename(ROOT, 'answer', ROOT, 'the answer');
    });
    assert.deepEqual(JSON.parse(readFileSync(store, 'utf8')), { 'the answer': 'NDIK' });
    await withGuest(create(), async (client) => assert.equal(await contentOf(client, 'the answer'), '42\n'));
  });
});

/** The store has nothing but keys and values. */
const KEEPS_NO_MODES =
  /mode|owner|belongs|times are kept|restart|offsets beyond 4 GiB|random sequences|change of attributes/;

describe('the git example', () => {
  it('shows branches, tags and commits as they are, and keeps the contract', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const { path: repository } = folder;
    const git = (...args: string[]): string =>
      execFileSync('git', ['-C', repository, '-c', 'user.name=a', '-c', 'user.email=a@b', ...args], {
        encoding: 'utf8',
      }).trim();
    git('init', '-q', '-b', 'main');
    execFileSync('sh', ['-c', 'mkdir -p d && echo one > d/file && ln -s d/file link'], { cwd: repository });
    git('add', '.');
    git('commit', '-qm', 'one');
    git('tag', 'v1');
    writeFileSync(join(repository, 'd/file'), 'two\n');
    git('commit', '-qam', 'two');
    const create = () => gitCommits.create({ repository }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), ['main', 'v1']);
      assert.equal(await contentOf(client, 'main/d/file'), 'two\n');
      assert.equal(await contentOf(client, 'v1/d/file'), 'one\n');
      assert.equal(await contentOf(client, `${git('rev-parse', 'v1')}/d/file`), 'one\n');
      assert.equal(await client.readlink((await client.walk('main/link')).nodeid), 'd/file');
      await assert.rejects(client.walk('--help'));
      await assert.rejects(client.walk('main/none'));
    });
    await keepsContract(create, { least: 10 });
  });
});

describe('the request log', () => {
  const openLog = async (directory: string): Promise<Backend> =>
    (await requestLog.create({ directory }, exampleEnvironment())) as Backend;

  it('keeps the contract in the directory that it shows', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    await keepsContract(() => openLog(folder.path), { least: 55, directory: 'files' });
  });

  it('grows while it is read, tells what failed apart, and keeps the last mebibyte', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    writeFileSync(join(folder.path, 'a "b"'), 'text');
    await withGuest(await openLog(folder.path), async (client) => {
      const { nodeid } = await client.walk('requests/failed');
      const { fh } = await client.open(nodeid);
      assert.equal((await client.read(nodeid, fh, 0, 4096)).length, 0);
      assert.equal(await contentOf(client, 'files/a "b"'), 'text');
      await assert.rejects(client.walk('files/gone/deep'));
      const { nodeid: files } = await client.walk('files');
      await assert.rejects(client.unlink(files, 'gone'));
      const failed = Buffer.from(await client.read(nodeid, fh, 0, 4096)).toString();
      assert.match(failed, /^\S+Z unlink "gone" \d+\.\d{3} ms ENOENT\n$/);
      const { nodeid: all } = await client.walk('requests/all');
      const text = await client.read(all, (await client.open(all)).fh, 0, 2 ** 17);
      assert.match(Buffer.from(text).toString(), / lookup "a \\"b\\"" \d+\.\d{3} ms\n/);

      const name = 'n'.repeat(255);
      for (let i = 0; i < 4000; i++) await assert.rejects(client.unlink(files, name));
      await assert.rejects(client.read(nodeid, fh, failed.length, 4096), { errno: Errno.EIO });
      const { fh: later } = await client.open(nodeid);
      let read = 0;
      for (let count = 1; count > 0; read += count)
        count = (await client.read(nodeid, later, read, 2 ** 17)).length;
      assert.equal(read, 2 ** 20);
    });
  });
});

describe('the zip example', () => {
  it('shows what an archive has, stored or compressed, and keeps the contract', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const { path: home } = folder;
    const noise = randomBytes(300_000).toString('latin1');
    mkdirSync(join(home, 'tree/deep/er'), { recursive: true });
    writeFileSync(join(home, 'tree/deep/er/noise'), noise, 'latin1');
    writeFileSync(join(home, 'tree/text'), 'text\n'.repeat(50_000), { mode: 0o755 });
    symlinkSync('deep/er', join(home, 'tree/link'));
    execFileSync('zip', ['-qry', '../archive.zip', '.', '-n', 'noise'], { cwd: join(home, 'tree') });
    const create = () =>
      zipArchive.create({ archive: join(home, 'archive.zip') }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), ['deep', 'link', 'text']);
      assert.equal(await contentOf(client, 'text'), 'text\n'.repeat(50_000));
      assert.equal((await client.walk('text')).attr.mode & 0o777, 0o555);
      const { nodeid } = await client.walk('deep/er/noise');
      const { fh } = await client.open(nodeid);
      const part = await client.read(nodeid, fh, 200_000, 1000);
      assert.equal(Buffer.from(part).toString('latin1'), noise.slice(200_000, 201_000));
      assert.equal(await client.readlink((await client.walk('link')).nodeid), 'deep/er');
      assert.equal((await client.lookup(ROOT, 'none')).nodeid, 0n);
    });
    await keepsContract(create, { least: 10 });
  });

  it('gives no damaged content, and takes no name that leads elsewhere', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const archive = join(folder.path, 'archive.zip');
    writeFileSync(join(folder.path, 'aa-evil'), 'evil\n'.repeat(1000));
    writeFileSync(join(folder.path, 'text'), 'text\n'.repeat(1000));
    execFileSync('zip', ['-q', archive, 'aa-evil', 'text'], { cwd: folder.path });
    const bytes = readFileSync(archive);
    for (let at = bytes.indexOf('aa-evil'); at >= 0; at = bytes.indexOf('aa-evil'))
      bytes.write('../evil', at);
    bytes[bytes.indexOf('text') + 40]! ^= 0xff;
    writeFileSync(archive, bytes);
    const create = zipArchive.create({ archive }, pluginEnvironment()) as Backend;
    const running = await engine(create);
    const { client, session } = running.guest();
    await client.init();
    assert.deepEqual(await client.list(ROOT), ['text']);
    await assert.rejects(contentOf(client, 'text'), { errno: 5 });
    await session.close();
    await running.export.close();
  });
});

/** Changes what the table of contents of an archive says of a file. */
function forged(archive: Buffer, name: string, change: (header: Buffer) => void): void {
  const head = Buffer.from('PK\x01\x02');
  for (let at = archive.indexOf(head); at >= 0; at = archive.indexOf(head, at + 1)) {
    const header = archive.subarray(at);
    if (header.toString('latin1', 46, 46 + header.readUInt16LE(28)) === name) change(header);
  }
}

describe('the zip example, given an archive that asks for too much,', () => {
  it('has no more memory for open files than it may, and no longer targets of links', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const names = ['1', '2', '3', '4', '5'];
    for (const name of [...names, 'link']) writeFileSync(join(folder.path, name), 'text'.repeat(2000));
    execFileSync('zip', ['-q', 'archive.zip', ...names, 'link'], { cwd: folder.path });
    const archive = join(folder.path, 'archive.zip');
    const bytes = readFileSync(archive);
    for (const name of names) forged(bytes, name, (header) => header.writeUInt32LE(2 ** 28, 24));
    forged(bytes, 'link', (header) => header.writeUInt32LE((0o120777 << 16) >>> 0, 38));
    writeFileSync(archive, bytes);
    const running = await engine(zipArchive.create({ archive }, pluginEnvironment()) as Backend);
    const { client, session } = running.guest();
    await client.init();
    const nodes = await Promise.all(names.map((name) => client.lookup(ROOT, name)));
    for (let round = 0; round < 2; round++) {
      const opens = await Promise.allSettled(nodes.map(({ nodeid }) => client.open(nodeid)));
      const errors = opens.map((open) => (open as PromiseRejectedResult).reason as { errno: number });
      assert.deepEqual(
        errors.map(({ errno }) => errno),
        [Errno.EIO, Errno.EIO, Errno.EIO, Errno.EIO, Errno.ENFILE],
      );
    }
    const { nodeid } = await client.lookup(ROOT, 'link');
    await assert.rejects(client.readlink(nodeid), { errno: Errno.ENAMETOOLONG });
    await session.close();
    await running.export.close();
  });

  it('closes what is no archive', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const archive = join(folder.path, 'text');
    writeFileSync(archive, 'no archive');
    await assert.rejects(engine(zipArchive.create({ archive }, pluginEnvironment()) as Backend));
    const open = readdirSync('/proc/self/fd').filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === archive;
      } catch {
        return false;
      }
    });
    assert.deepEqual(open, []);
  });
});

describe('the SQLite example', () => {
  it('removes nothing while the database is locked, and what is replaced lives on while it is open', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const database = join(folder.path, 'shop.db');
    execFileSync('sqlite3', [
      database,
      "CREATE TABLE orders (item); INSERT INTO orders VALUES ('tea'), ('milk')",
    ]);
    const backend = sqliteTables.create({ database }, pluginEnvironment()) as Backend;
    await withGuest(backend, async (client) => {
      const { nodeid: orders } = await client.walk('orders');
      const { nodeid } = await client.lookup(orders, '1.json');
      const { fh } = await client.open(nodeid, 2);
      const before = await client.read(nodeid, fh, 0, 4096);
      const { entry, open } = await client.create(orders, 'draft');
      await client.write(entry.nodeid, open.fh, 0, Buffer.from('{"item": "salt"}'));
      await client.write(nodeid, fh, 0, before);

      // As another process that writes.
      mkdirSync(`${database}.lock`);
      await assert.rejects(client.unlink(orders, '1.json'), { errno: Errno.EBUSY });
      await assert.rejects(client.rename(orders, 'draft', orders, '1.json'), { errno: Errno.EBUSY });
      await assert.rejects(client.flush(nodeid, fh), { errno: Errno.EBUSY });
      await assert.rejects(client.list(orders), { errno: Errno.EBUSY });
      rmdirSync(`${database}.lock`);

      assert.equal((await client.getattr(nodeid)).nlink, 1);
      await client.setattr(nodeid, { size: 0 });
      await client.write(nodeid, fh, 0, Buffer.from('{"item": "bread"}'));
      await client.flush(nodeid, fh);
      const bread = Buffer.from(await client.read(nodeid, fh, 0, 4096)).toString();
      assert.deepEqual(JSON.parse(bread), { item: 'bread' });
      await client.rename(orders, 'draft', orders, '1.json');
      assert.equal(Buffer.from(await client.read(nodeid, fh, 0, 4096)).toString(), bread);
      assert.equal((await client.getattr(nodeid)).nlink, 0);
      assert.deepEqual(JSON.parse(await contentOf(client, 'orders/1.json')), { item: 'salt' });
    });
  });

  it('takes no more drafts than it has room for, those of removed files too', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const database = join(folder.path, 'shop.db');
    execFileSync('sqlite3', [database, 'CREATE TABLE orders (item)']);
    const backend = sqliteTables.create({ database }, pluginEnvironment()) as Backend;
    await withGuest(backend, async (client) => {
      const { nodeid: orders } = await client.walk('orders');
      const made: bigint[] = [];
      const fill = async (): Promise<void> => {
        for (let name = 0; name < 20; name++) {
          const { entry, open } = await client.create(orders, `draft-${name}`);
          made.push(entry.nodeid);
          await client.release(entry.nodeid, open.fh);
          await client.unlink(orders, `draft-${name}`);
          await client.setattr(entry.nodeid, { size: 2 ** 24 });
        }
      };
      await assert.rejects(fill(), { errno: Errno.ENOSPC });
      assert.equal(made.length, 16);
      for (const node of made.splice(0)) await client.forget(node);
      await assert.rejects(fill(), { errno: Errno.ENOSPC });
      assert.equal(made.length, 16);
    });
  });

  it('keeps the contract in its tables', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const database = join(folder.path, 'shop.db');
    execFileSync('sqlite3', [database, 'CREATE TABLE orders (item)']);
    const create = () => sqliteTables.create({ database }, pluginEnvironment()) as Backend;
    await keepsContract(create, { least: 30, directory: 'orders', except: KEEPS_NO_MODES });
  });

  it('shows rows as JSON, and takes new ones at once or not at all', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const database = join(folder.path, 'shop.db');
    const sql = (text: string): string =>
      execFileSync('sqlite3', ['-json', database, text], { encoding: 'utf8' }).trim();
    sql('CREATE TABLE orders (item TEXT NOT NULL, n INTEGER, image BLOB); CREATE TABLE empty (a)');
    sql("INSERT INTO orders VALUES ('tea', 2, x'00ff'), ('milk', NULL, NULL)");
    const create = () => sqliteTables.create({ database }, pluginEnvironment()) as Backend;
    const put = async (client: FuseClient, name: string, content: string): Promise<void> => {
      const { nodeid } = await client.walk('orders');
      const { entry, open } = await client.create(nodeid, name);
      await client.setattr(entry.nodeid, { size: 0 });
      await client.write(entry.nodeid, open.fh, 0, Buffer.from(content));
      await client.flush(entry.nodeid, open.fh);
      await client.release(entry.nodeid, open.fh);
    };
    await withGuest(create(), async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), ['empty', 'orders']);
      const { nodeid } = await client.walk('orders');
      assert.deepEqual((await client.list(nodeid)).sort(), ['1.json', '2.json']);
      assert.deepEqual(JSON.parse(await contentOf(client, 'orders/1.json')), {
        item: 'tea',
        n: 2,
        image: { base64: 'AP8=' },
      });
      await put(client, '7.json', '{"item": "salt", "n": 1}');
      await put(client, 'draft', '{"item": "bread", "image": {"base64": "AQI="}}');
      assert.equal(sql('SELECT count(*) AS n FROM orders'), '[{"n":3}]');
      await client.rename(nodeid, 'draft', nodeid, '2.json');
      await client.unlink(nodeid, '1.json');
      await assert.rejects(put(client, '8.json', '{"item": null}'), { errno: 22 });
      await assert.rejects(put(client, '9.json', 'no JSON'), { errno: 22 });
      assert.deepEqual(JSON.parse(await contentOf(client, 'orders/2.json')), {
        item: 'bread',
        n: null,
        image: { base64: 'AQI=' },
      });
    });
    assert.equal(
      sql('SELECT rowid, item, n, hex(image) AS image FROM orders ORDER BY rowid'),
      '[{"rowid":2,"item":"bread","n":null,"image":"0102"},\n{"rowid":7,"item":"salt","n":1,"image":""}]',
    );
  });
});

describe('the HTTP example', () => {
  it('reads ranges once, shows directories, and keeps the contract', async (t) => {
    const { url, requests, file } = await webServer(t);
    const create = () => httpDirectory.create({ url, seconds: 60 }, pluginEnvironment()) as Backend;
    await withGuest(create(), async (client) => {
      assert.deepEqual((await client.list(ROOT)).sort(), ['a b', 'file']);
      assert.equal(await contentOf(client, 'a b/deep'), 'deep\n');
      assert.equal(await contentOf(client, 'file'), file);
      const before = requests.length;
      assert.equal(await contentOf(client, 'file'), file);
      assert.equal(requests.length, before);
      assert.ok(requests.includes('GET /pub/file bytes=131072-262143'), requests.join('\n'));
      await assert.rejects(client.walk('none'));
    });
    await keepsContract(create, { least: 10 });
  });
});

describe('the tar example', () => {
  const damaged = (archive: string, change: (bytes: Buffer) => void): Backend => {
    const bytes = readFileSync(archive);
    change(bytes);
    writeFileSync(`${archive}.damaged`, bytes);
    return tarArchive.create({ archive: `${archive}.damaged` }, pluginEnvironment()) as Backend;
  };

  it('shows what each kind of tar wrote, and keeps the contract', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const { path: home } = folder;
    const long = `${'d'.repeat(90)}/${'f'.repeat(120)}`;
    mkdirSync(join(home, 'tree', 'd'.repeat(90)), { recursive: true });
    writeFileSync(join(home, 'tree', long), 'long name\n');
    writeFileSync(join(home, 'tree/text'), 'text\n'.repeat(50_000), { mode: 0o750 });
    linkSync(join(home, 'tree/text'), join(home, 'tree/twin'));
    symlinkSync(long, join(home, 'tree/link'));
    for (const format of ['ustar', 'gnu', 'posix']) {
      const archive = join(home, `${format}.tar`);
      const from = format === 'ustar' ? ['text', 'twin'] : ['.'];
      execFileSync('tar', ['cf', archive, `--format=${format}`, '-C', join(home, 'tree'), ...from]);
      const create = () => tarArchive.create({ archive }, pluginEnvironment()) as Backend;
      await withGuest(create(), async (client) => {
        assert.equal((await client.walk('text')).attr.mode & 0o777, 0o750);
        assert.equal(await contentOf(client, 'twin'), 'text\n'.repeat(50_000));
        assert.equal((await client.lookup(ROOT, 'none')).nodeid, 0n);
        if (format === 'ustar') return;
        assert.equal(await contentOf(client, long), 'long name\n');
        assert.equal(await client.readlink((await client.walk('link')).nodeid), long);
      });
      await keepsContract(create, { least: 10 });
    }
  });

  it('takes no damaged archive, gives no content beyond a cut one, and no way out of it', async () => {
    await using folder = await temporaryDirectory('/dev/shm');
    const archive = join(folder.path, 'archive.tar');
    writeFileSync(join(folder.path, 'text'), 'text\n'.repeat(1000));
    execFileSync('tar', ['cPf', archive, '-C', folder.path, '--transform=s,^,../evil/,', 'text']);
    execFileSync('tar', ['rf', archive, '-C', folder.path, 'text']);
    await withGuest(tarArchive.create({ archive }, pluginEnvironment()) as Backend, async (client) => {
      assert.deepEqual(await client.list(ROOT), ['text']);
      truncateSync(archive, 8000);
      const { nodeid } = await client.walk('text');
      const { fh } = await client.open(nodeid);
      await assert.rejects(client.read(nodeid, fh, 4096, 904), { errno: Errno.EIO });
    });
    await assert.rejects(engine(damaged(archive, (bytes) => (bytes[5]! ^= 1))), /a header is damaged/);
    // A size that no archive has, in the binary form of GNU tar.
    const endless = damaged(archive, (bytes) => {
      bytes.fill(0xff, 124, 136);
      bytes.fill(0x20, 148, 156);
      const sum = bytes.subarray(0, 512).reduce((all, byte) => all + byte, 0);
      bytes.write(sum.toString(8).padStart(6, '0'), 148);
    });
    await assert.rejects(engine(endless), /a size is damaged/);
    // One that leads back to the header before it, for ever.
    // tar leaves zeros at the end of a time out.
    execFileSync('touch', ['-d', '@1700000000.123456789', join(folder.path, 'text')]);
    execFileSync('tar', ['cf', archive, '--format=posix', '-C', folder.path, 'text']);
    const backwards = damaged(archive, (bytes) => {
      const [record] = /30 mtime=[\d.]{20}\n/.exec(bytes.toString('latin1'))!;
      bytes.write(`30 size=${'-1536'.padEnd(20, ' ')} \n`, bytes.indexOf(record), 'latin1');
    });
    await assert.rejects(engine(backwards), /a size is damaged/);
  });
});

it('the vault takes no salt that a full disk has cut', async () => {
  await using folder = await temporaryDirectory();
  writeFileSync(join(folder.path, 'passphrase'), 'correct horse\n');
  writeFileSync(join(folder.path, 'passphrase.salt'), '');
  const options = { directory: folder.path, passphraseFile: join(folder.path, 'passphrase') };
  await assert.rejects(
    async () => passphraseVault.create(options, exampleEnvironment()),
    /is to have 16 bytes/,
  );
});

it('each example works where it is mounted on this host', async (t) => {
  await using folder = await temporaryDirectory();
  for (const { name, create, script, output } of await exampleTrials(t, folder.path)) {
    await using mounted = await MountedExport.open(await create());
    assert.deepEqual(await shell(script, mounted.directory), { code: 0, output }, name);
  }
});
