import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { type AttributeChanges, FileType, FsError, OpenFlags } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/host-buffer.js';
import type { Node } from '../../../backends/passthrough/nodes/nodes.js';
import type { OpenFile } from '../../../backends/passthrough/nodes/open-file.js';
import { bufferOf, outcome, root, type Share, serve } from './harness.js';
import { host } from './host-calls.js';
import { checkProperty } from '../../support/random.js';
import { entriesOf } from '../../support/listings.js';

/**
 * Makes random operations on a share and on a plain directory of the same file system. Both must
 * give the same answers.
 */

const NAMES = ['a', 'b', 'c', 'ä\u{1f600}', 'x'.repeat(255)];
const XATTRS = ['user.one', 'user.two', 'trusted.three'];

/** What an operation works on: a directory, a name and a handle, of those that there are then. */
const where = { directory: fc.nat(), name: fc.nat(), handle: fc.nat() };
const range = { offset: fc.nat(20000), length: fc.integer({ min: 1, max: 9000 }) };

const operation = fc.oneof(
  fc.record({
    ...where,
    kind: fc.constant('create' as const),
    flags: fc.constantFrom(0, OpenFlags.EXCL, OpenFlags.TRUNC, OpenFlags.APPEND),
    mode: fc.integer({ min: 0, max: 0o7777 }),
  }),
  fc.record({ ...where, kind: fc.constant('mkdir' as const), mode: fc.constantFrom(0o755, 0o1777, 0o2755) }),
  fc.record({
    ...where,
    kind: fc.constant('mknod' as const),
    type: fc.constantFrom<number>(FileType.FIFO, FileType.SOCKET, FileType.REGULAR, FileType.CHARACTER),
  }),
  fc.record({
    ...where,
    kind: fc.constant('symlink' as const),
    target: fc.constantFrom('a', '/etc/passwd', '../..', 'y'.repeat(4095)),
  }),
  fc.record({ ...where, kind: fc.constant('link' as const), toDirectory: fc.nat(), toName: fc.nat() }),
  fc.record({
    ...where,
    kind: fc.constantFrom(
      'unlink' as const,
      'rmdir' as const,
      'stat' as const,
      'readlink' as const,
      'list' as const,
    ),
  }),
  fc.record({
    ...where,
    kind: fc.constant('rename' as const),
    toDirectory: fc.nat(),
    toName: fc.nat(),
    flags: fc.constantFrom(0, 0, 1, 2, 4, 8),
  }),
  fc.record({
    ...where,
    kind: fc.constant('open' as const),
    flags: fc.constantFrom(0, 1, 2, OpenFlags.TRUNC | 2, OpenFlags.APPEND | 1),
  }),
  fc.record({ ...where, ...range, kind: fc.constant('write' as const), byte: fc.nat(255) }),
  fc.record({
    ...where,
    ...range,
    kind: fc.constantFrom('read' as const, 'release' as const, 'fstat' as const, 'fsync' as const),
  }),
  fc.record({
    ...where,
    ...range,
    kind: fc.constant('fallocate' as const),
    mode: fc.constantFrom(0, 1, 3, 0x10, 0x40, 0x100),
  }),
  fc.record({ ...where, ...range, kind: fc.constantFrom('data' as const, 'hole' as const) }),
  fc.record({
    ...where,
    ...range,
    kind: fc.constant('copy' as const),
    to: fc.nat(),
    toOffset: fc.nat(20000),
  }),
  fc.record({ ...where, kind: fc.constant('chmod' as const), mode: fc.integer({ min: 0, max: 0o7777 }) }),
  fc.record({
    ...where,
    kind: fc.constant('chown' as const),
    uid: fc.constantFrom(0, 1000),
    gid: fc.constantFrom(0, 2000),
  }),
  fc.record({ ...where, kind: fc.constant('truncate' as const), size: fc.nat(30000) }),
  fc.record({
    ...where,
    kind: fc.constant('utimes' as const),
    atime: fc.nat(2 ** 31),
    mtime: fc.nat(2 ** 31),
  }),
  fc.record({
    ...where,
    kind: fc.constantFrom('setxattr' as const, 'getxattr' as const, 'removexattr' as const),
    xattr: fc.nat(XATTRS.length - 1),
    flags: fc.constantFrom(0, 1, 2),
    size: fc.nat(300),
  }),
);
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never;

interface Handle {
  readonly node: Node;
  readonly file: OpenFile;
  readonly fd: number;
  readonly writable: boolean;
  readonly readable: boolean;
  readonly append: boolean;
}

/** Both sides, and what there is on them. */
class Pair {
  readonly share: Share;
  readonly plain: string;
  handles: Handle[] = [];

  constructor(given: Record<string, unknown>) {
    this.share = serve(tmpdir(), { trustedXattrs: 'allow', ...given });
    this.plain = fs.mkdtempSync(join(tmpdir(), 'vfk-plain-'));
  }

  close(): void {
    for (const { fd } of this.handles) fs.closeSync(fd);
    this.share.close();
    fs.rmSync(this.plain, { recursive: true, force: true });
  }

  /** Directories on the plain side, relative. */
  directories(): string[] {
    const found = [''];
    for (const directory of found) {
      for (const entry of fs.readdirSync(join(this.plain, directory), { withFileTypes: true })) {
        if (entry.isDirectory() && found.length < 12) found.push(join(directory, entry.name));
      }
    }
    return found;
  }

  /** The share's node of a relative path that leads through directories. */
  async node(path: string): Promise<Node> {
    let { node } = this.share;
    for (const part of path.split('/').filter((text) => text !== '')) {
      const found = await this.share.backend.lookup(node, part, root);
      if (found === undefined) throw FsError.of('ENOENT');
      node = found.node;
    }
    return node;
  }
}

function nameOf(errno: number): string {
  return errno < 0 ? FsError.of(-errno).code : 'ok';
}

function hostOutcome(call: () => void): string {
  try {
    call();
    return 'ok';
  } catch (error) {
    return (error as { code: string }).code;
  }
}

function shown(stat: fs.Stats): object {
  const { mode, nlink, uid, gid, size } = stat;
  return { mode, nlink, uid, gid, size: stat.isDirectory() ? 0 : size };
}

async function step(pair: Pair, op: Operation): Promise<void> {
  const { backend } = pair.share;
  const directories = pair.directories();
  const place = (directory: number, name: number): { parent: string; name: string; path: string } => {
    const parent = directories[directory % directories.length]!;
    const text = NAMES[name % NAMES.length]!;
    return { parent, name: text, path: join(pair.plain, parent, text) };
  };
  const at = place(op.directory, op.name);
  const handle = pair.handles.length === 0 ? undefined : pair.handles[op.handle % pair.handles.length];
  const parent = await pair.node(at.parent);
  const target = async (): Promise<Node> => pair.node(join(at.parent, at.name));
  const changed = async (changes: AttributeChanges): Promise<string> =>
    outcome(async () => backend.setattr(await target(), changes, undefined, root));

  switch (op.kind) {
    case 'create': {
      const flags = op.flags | OpenFlags.READ_WRITE;
      const context = { ...root, umask: 0 };
      let made: { node: Node; file: OpenFile } | undefined;
      // Opening what is no regular file is the guest's own business.
      const there = fs.lstatSync(at.path, { throwIfNoEntry: false });
      if (there !== undefined && !there.isFile() && (flags & OpenFlags.EXCL) === 0) return;
      const ours = await outcome(async () => {
        made = await backend.create(parent, at.name, op.mode, flags, context);
      });
      let fd = -1;
      const theirs = hostOutcome(() => {
        const mask = process.umask(0);
        try {
          fd = fs.openSync(at.path, flags | OpenFlags.CREAT, op.mode);
        } finally {
          process.umask(mask);
        }
      });
      assert.equal(ours, theirs);
      if (made !== undefined) {
        const append = (flags & OpenFlags.APPEND) !== 0;
        pair.handles.push({ ...made, fd, writable: true, readable: true, append });
      }
      return;
    }
    case 'mkdir': {
      const ours = await outcome(() => backend.mkdir(parent, at.name, op.mode, root));
      assert.equal(
        ours,
        hostOutcome(() => fs.mkdirSync(at.path, op.mode)),
      );
      return;
    }
    case 'mknod': {
      const device = op.type === FileType.CHARACTER ? 0x103 : 0;
      const ours = await outcome(() => backend.mknod(parent, at.name, op.type | 0o644, device, root));
      assert.equal(ours, nameOf(host.mknod(at.path, op.type | 0o644, device)));
      return;
    }
    case 'symlink': {
      const ours = await outcome(() => backend.symlink(parent, at.name, op.target, root));
      assert.equal(
        ours,
        hostOutcome(() => fs.symlinkSync(op.target, at.path)),
      );
      return;
    }
    case 'readlink': {
      const stat = fs.lstatSync(at.path, { throwIfNoEntry: false });
      if (stat?.isSymbolicLink() !== true) return;
      assert.equal(await backend.readlink(await target(), root), fs.readlinkSync(at.path));
      return;
    }
    case 'link': {
      const to = place(op.toDirectory, op.toName);
      const ours = await outcome(async () =>
        backend.link(await target(), await pair.node(to.parent), to.name, root),
      );
      assert.equal(
        ours,
        hostOutcome(() => fs.linkSync(at.path, to.path)),
      );
      return;
    }
    case 'unlink':
    case 'rmdir': {
      const remove = op.kind === 'unlink' ? backend.unlink : backend.rmdir;
      const ours = await outcome(() => remove(parent, at.name, root));
      const theirs = hostOutcome(() => (op.kind === 'unlink' ? fs.unlinkSync : fs.rmdirSync)(at.path));
      assert.equal(ours, theirs);
      return;
    }
    case 'rename': {
      const to = place(op.toDirectory, op.toName);
      const newParent = await pair.node(to.parent);
      const ours = await outcome(() => backend.rename(parent, at.name, newParent, to.name, op.flags, root));
      assert.equal(ours, nameOf(host.rename(at.path, to.path, op.flags)));
      return;
    }
    case 'stat': {
      const stat = fs.lstatSync(at.path, { throwIfNoEntry: false });
      const found = await backend.lookup(parent, at.name, root);
      assert.equal(found === undefined, stat === undefined);
      if (found === undefined || stat === undefined) return;
      const { mode, nlink, uid, gid, size, rdev } = found.attributes;
      const directory = (mode & FileType.MASK) === FileType.DIRECTORY;
      assert.deepEqual({ mode, nlink, uid, gid, size: directory ? 0 : size }, shown(stat));
      assert.equal(rdev, stat.isCharacterDevice() ? stat.rdev : 0);
      return;
    }
    case 'list': {
      const names = entriesOf(await backend.readdir(parent, root));
      assert.deepEqual(
        names.map(({ name }) => name).sort(),
        fs.readdirSync(join(pair.plain, at.parent)).sort(),
      );
      return;
    }
    case 'open': {
      const stat = fs.lstatSync(at.path, { throwIfNoEntry: false });
      if (stat !== undefined && !stat.isFile()) return;
      let file: OpenFile | undefined;
      let node: Node | undefined;
      const ours = await outcome(async () => {
        node = await target();
        ({ file } = await backend.open(node, op.flags, root));
      });
      let fd = -1;
      assert.equal(
        ours,
        hostOutcome(() => (fd = fs.openSync(at.path, op.flags))),
      );
      if (node === undefined || file === undefined) return;
      const access = op.flags & OpenFlags.ACCESS_MODE;
      pair.handles.push({
        node,
        file,
        fd,
        readable: access !== OpenFlags.WRITE_ONLY,
        writable: access !== OpenFlags.READ_ONLY,
        append: (op.flags & OpenFlags.APPEND) !== 0,
      });
      return;
    }
    case 'write': {
      if (handle?.writable !== true) return;
      const content = new Uint8Array(op.length).fill(op.byte);
      const written = await backend.write(handle.node, handle.file, bufferOf(content), op.offset, 0, root);
      assert.equal(written, fs.writeSync(handle.fd, content, 0, op.length, op.offset));
      return;
    }
    case 'read': {
      if (handle?.readable !== true) return;
      const ours = hostBuffer(op.length);
      const theirs = new Uint8Array(op.length);
      const count = await backend.read(handle.node, handle.file, ours, op.offset, root);
      assert.equal(count, fs.readSync(handle.fd, theirs, 0, op.length, op.offset));
      assert.deepEqual(ours.bytes.subarray(0, count), theirs.subarray(0, count));
      return;
    }
    case 'release': {
      if (handle === undefined) return;
      pair.handles = pair.handles.filter((other) => other !== handle);
      await backend.release(handle.node, handle.file);
      fs.closeSync(handle.fd);
      return;
    }
    case 'fstat': {
      if (handle === undefined) return;
      const { mode, nlink, uid, gid, size } = await backend.getattr(handle.node, handle.file, root);
      assert.deepEqual({ mode, nlink, uid, gid, size }, shown(fs.fstatSync(handle.fd)));
      return;
    }
    case 'fsync': {
      if (handle === undefined) return;
      await backend.fsync(handle.node, handle.file, true, root);
      return;
    }
    case 'fallocate': {
      if (handle?.writable !== true) return;
      const ours = await outcome(() =>
        backend.fallocate(handle.node, handle.file, op.mode, op.offset, op.length, root),
      );
      assert.equal(ours, nameOf(host.fallocate(handle.fd, op.mode, op.offset, op.length)));
      return;
    }
    case 'data':
    case 'hole': {
      if (handle === undefined) return;
      // Of blocks that were allocated and not written, Linux calls those data whose pages are in
      // memory (`iomap_seek_data`). A read that may not wait brings in other pages than one that
      // may.
      host.dropPages(handle.fd);
      host.dropPages(handle.file.fd);
      let found = -1;
      const ours = await outcome(async () => {
        found = await backend.lseek(handle.node, handle.file, op.offset, op.kind as 'data' | 'hole', root);
      });
      const theirs = host.seek(handle.fd, op.offset, op.kind === 'data' ? 3 : 4);
      assert.equal(ours, nameOf(theirs));
      if (ours === 'ok') assert.equal(found, theirs);
      return;
    }
    case 'copy': {
      const to = pair.handles[op.to % Math.max(pair.handles.length, 1)];
      if (handle?.readable !== true || to?.writable !== true || to.append || to.node === handle.node) return;
      const copied = await backend.copyFileRange(
        handle.node,
        handle.file,
        op.offset,
        to.node,
        to.file,
        op.toOffset,
        op.length,
        root,
      );
      const content = new Uint8Array(op.length);
      const count = fs.readSync(handle.fd, content, 0, op.length, op.offset);
      assert.equal(copied, count);
      if (count > 0) fs.writeSync(to.fd, content, 0, count, op.toOffset);
      return;
    }
    case 'chmod': {
      if (fs.lstatSync(at.path, { throwIfNoEntry: false })?.isSymbolicLink() === true) return;
      assert.equal(
        await changed({ mode: op.mode }),
        hostOutcome(() => fs.chmodSync(at.path, op.mode)),
      );
      return;
    }
    case 'chown': {
      const { uid, gid } = op;
      assert.equal(
        await changed({ uid, gid }),
        hostOutcome(() => fs.lchownSync(at.path, uid, gid)),
      );
      return;
    }
    case 'truncate': {
      const stat = fs.lstatSync(at.path, { throwIfNoEntry: false });
      if (stat !== undefined && !stat.isFile()) return;
      assert.equal(
        await changed({ size: op.size }),
        hostOutcome(() => fs.truncateSync(at.path, op.size)),
      );
      return;
    }
    case 'utimes': {
      const changes = {
        atime: { seconds: op.atime, nanoseconds: 5 },
        mtime: { seconds: op.mtime, nanoseconds: 7 },
      };
      const ours = await changed(changes);
      assert.equal(
        ours,
        hostOutcome(() => fs.lutimesSync(at.path, op.atime, op.mtime)),
      );
      if (ours !== 'ok') return;
      const { attributes } = (await backend.lookup(parent, at.name, root))!;
      const { atime, atimeNsec, mtime, mtimeNsec } = attributes;
      assert.deepEqual([atime, atimeNsec, mtime, mtimeNsec], [op.atime, 5, op.mtime, 7]);
      return;
    }
    case 'setxattr': {
      const value = 'v'.repeat(op.size);
      const ours = await outcome(async () =>
        backend.setxattr(await target(), XATTRS[op.xattr]!, Buffer.from(value), op.flags, false, root),
      );
      assert.equal(ours, nameOf(host.setxattr(at.path, XATTRS[op.xattr]!, value, op.flags)));
      return;
    }
    case 'getxattr': {
      let size = -61;
      const ours = await outcome(async () => {
        size = (await backend.getxattr(await target(), XATTRS[op.xattr]!, root))?.length ?? -61;
      });
      const theirs = host.xattrSize(at.path, XATTRS[op.xattr]!);
      if (ours === 'ok') assert.equal(size, theirs);
      else assert.equal(ours, nameOf(theirs));
      return;
    }
    case 'removexattr': {
      const ours = await outcome(async () => backend.removexattr(await target(), XATTRS[op.xattr]!, root));
      assert.equal(ours, nameOf(host.removexattr(at.path, XATTRS[op.xattr]!)));
      return;
    }
  }
}

const runs = Number(process.env['VFK_DIFFERENTIAL_RUNS'] ?? 40);

for (const inodeFileHandles of ['prefer', 'never'] as const) {
  test(`with file handles ${inodeFileHandles}: random operations have the results that they have on the host`, async (t) => {
    await checkProperty(
      t,
      fc.asyncProperty(
        fc.array(operation, { minLength: 1, maxLength: 200, size: 'max' }),
        async (operations) => {
          const pair = new Pair({ inodeFileHandles, cachedDescriptors: 16 });
          try {
            for (const op of operations) await step(pair, op);
          } finally {
            pair.close();
          }
        },
      ),
      { numRuns: runs },
    );
  });
}
