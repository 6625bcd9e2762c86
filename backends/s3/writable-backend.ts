import { randomUUID } from 'node:crypto';
import type {
  AttributeChanges,
  Attributes,
  Awaitable,
  Context,
  Created,
  Entry,
  GuestBuffer,
  Opened,
  Time,
} from '../../core/backend/index.js';
import {
  andThen,
  creationMode,
  DAEMON,
  FallocateMode,
  FileType,
  FsError,
  nameBytes,
  OpenFlags,
  RenameFlags,
  WriteFlags,
  XattrFlags,
} from '../../core/backend/index.js';
import type { Posix, RemoteObject } from './objects/attributes.js';
import {
  attributesFit,
  fresh,
  metadataSize,
  METADATA_MAX_BYTES,
  now,
  withoutPrivileges,
} from './objects/attributes.js';
import { ReadingBackend } from './reading-backend.js';
import { Deadline } from './client/deadline.js';
import { S3Failure } from './client/failure.js';
import { outdated } from './write/files.js';
import type { OpenFile } from './write/files.js';
import type { Removal } from './journal/removal-log.js';
import { decodePart, keyFits, RESERVED } from './objects/keys.js';
import { childPath, learnAbsent, learnDirectory, learnFile, pathOf, unlearn } from './tree/nodes.js';
import type { Directory, FileNode, Node } from './tree/nodes.js';
import { isWhatGoes } from './write/removals.js';
import { contentOf, copyObject } from './write/upload.js';

const nothing = new Uint8Array(0);
/** Most removals that a listing is looked through for: a page has 1,000 keys. */
const LEAVING_MAX = 900;

const OWN_CONTENT =
  'the object of this directory has content that no file shows: the directory is not removed; delete the key by another tool';
const HIDDEN =
  'this directory has a key that is no file name and is not shown: the directory is not removed; delete the key by another tool';

/** Serves a bucket for reading and writing. */
export class WritableBackend extends ReadingBackend {
  /** Else Linux asks for file capabilities before each write. */
  readonly semantics = { killPriv: true };

  /** Checks a name before any change. @throws EPERM, ENAMETOOLONG, ENOENT */
  #allowed(parent: Directory, name: string): void {
    if (parent.parent === undefined && name === RESERVED) throw FsError.of('EPERM');
    if (!keyFits(this.mounted.services.keys.file(childPath(parent, name)))) throw FsError.of('ENAMETOOLONG');
    if (parent.removed) throw FsError.of('ENOENT');
  }

  /** Runs a change of a directory's names, one at a time. Failures become errnos. */
  async #changing<T>(
    parent: Directory,
    name: string,
    context: Context,
    change: () => Promise<T>,
  ): Promise<T> {
    return this.guard(async () => {
      if (parent.isAssumed) await this.present(parent, context);
      this.#allowed(parent, name);
      return parent.changes.run(change);
    });
  }

  /** Updates a directory's times after a change of its names. They last while it is mounted. */
  #touch(directory: Directory): void {
    const time = now();
    directory.touched = time;
    directory.posix = { ...directory.posix, mtime: time, ctime: time };
  }

  /**
   * Writes the marker object of a directory that exists only by what is below it, before it loses
   * the last of that.
   */
  async #anchor(directory: Directory, deadline: Deadline): Promise<void> {
    if (directory.parent === undefined || directory.marker === true) return;
    const { bucket, keys } = this.mounted.services;
    try {
      const content = contentOf(directory.posix, undefined);
      await bucket.put(keys.directory(pathOf(directory)), nothing, content, 'absent', deadline);
    } catch (error) {
      if (!(error instanceof S3Failure) || error.kind !== 'precondition') throw error;
    }
    directory.marker = true;
  }

  /** Attributes of a new node. The group is the directory's if that has the set-group-id bit. */
  #creation(parent: Directory, mode: number, context: Context): Posix {
    const inherits = (parent.posix.mode & 0o2000) !== 0;
    const directory = (mode & FileType.MASK) === FileType.DIRECTORY;
    const given = creationMode(mode, parent.posix, context);
    const bits = (given & ~context.umask) | (inherits && directory ? 0o2000 : 0);
    return fresh(bits, context.uid, inherits ? parent.posix.gid : context.gid, now());
  }

  async #mustBeFree(parent: Directory, name: string, deadline: Deadline): Promise<void> {
    if ((await this.find(parent, name, this.ttl, () => deadline)) !== undefined) throw FsError.of('EEXIST');
  }

  /** Creates an object at once, so that of two creators one gets EEXIST. */
  async #make(
    parent: Directory,
    name: string,
    body: Uint8Array,
    posix: Posix,
    deadline: Deadline,
  ): Promise<FileNode> {
    const { services, files, tree } = this.mounted;
    await this.#mustBeFree(parent, name, deadline);
    let object: RemoteObject;
    try {
      object = await files.putNew(services.keys.file(childPath(parent, name)), body, posix, deadline);
    } catch (error) {
      unlearn(parent, name);
      throw error;
    }
    learnFile(parent, name, object, posix);
    this.#touch(parent);
    const reply = { at: performance.now(), sequence: 0 };
    return tree.node(parent, name, { kind: 'file', object, posix, ...reply }) as FileNode;
  }

  async mknod(
    parent: Node,
    name: string,
    mode: number,
    rdev: number,
    context: Context,
  ): Promise<Entry<Node>> {
    const directory = this.directory(parent);
    return this.#changing(directory, name, context, async () => {
      const posix = { ...this.#creation(directory, mode, context), rdev };
      return this.entry(await this.#make(directory, name, nothing, posix, this.deadline(context)));
    });
  }

  async symlink(parent: Node, name: string, target: string, context: Context): Promise<Entry<Node>> {
    const directory = this.directory(parent);
    return this.#changing(directory, name, context, async () => {
      const posix = { ...this.#creation(directory, 0, context), mode: FileType.SYMLINK | 0o777 };
      return this.entry(await this.#make(directory, name, nameBytes(target), posix, this.deadline(context)));
    });
  }

  async mkdir(parent: Node, name: string, mode: number, context: Context): Promise<Entry<Node>> {
    const directory = this.directory(parent);
    return this.#changing(directory, name, context, async () => {
      const { files, services, tree } = this.mounted;
      const deadline = this.deadline(context);
      const posix = this.#creation(directory, FileType.DIRECTORY | (mode & 0o7777), context);
      await this.#mustBeFree(directory, name, deadline);
      await files.putNew(services.keys.directory(childPath(directory, name)), nothing, posix, deadline);
      learnDirectory(directory, name, true, posix);
      this.#touch(directory);
      const at = performance.now();
      const known = { kind: 'directory', marker: true, posix, at, sequence: 0 } as const;
      const node = tree.node(directory, name, known) as Directory;
      // It is new and therefore empty.
      node.listed = at;
      node.pages = 1;
      return this.entry(node);
    });
  }

  async link(): Promise<Entry<Node>> {
    throw FsError.of('EPERM');
  }

  async unlink(parent: Node, name: string, context: Context): Promise<void> {
    const directory = this.directory(parent);
    await this.#changing(directory, name, context, async () => {
      const deadline = this.deadline(context);
      const found = await this.find(directory, name, this.ttl, () => deadline);
      if (found === undefined) throw FsError.of('ENOENT');
      const node = this.file(found);
      await this.#anchor(directory, deadline);
      await this.mounted.files.taking(node, () => this.#unlink(node, directory, deadline));
      this.#touch(directory);
    });
  }

  /** @throws EPERM where the options keep what is in the bucket under its name. */
  #mayGo(node: Node): void {
    const isInBucket = node.kind === 'directory' || node.etag !== undefined;
    if (this.options.refuseDelete && isInBucket) throw FsError.of('EPERM');
  }

  /** @throws EPERM where the options keep a file as it is. */
  #mayReplace(node: Node): void {
    const hasContent = node.kind === 'file' && (node.version.object?.size ?? 0) > 0;
    if (this.options.refuseOverwrite && hasContent) throw FsError.of('EPERM');
  }

  #mayOpen(node: Node, flags: number): void {
    const isRead = (flags & OpenFlags.ACCESS_MODE) === OpenFlags.READ_ONLY;
    if (!isRead || (flags & OpenFlags.TRUNC) !== 0) this.#mayReplace(node);
  }

  async #unlink(node: FileNode, directory: Directory, deadline: Deadline): Promise<void> {
    const { files, services, tree } = this.mounted;
    const key = services.keys.file(pathOf(node));
    await files.reconcile(node);
    this.#mayGo(node);
    const undo = await files.preserve(node);
    const { staged } = node;
    const obsolete = node.etag === undefined ? undefined : { key, etag: node.etag };
    tree.leaving(node, pathOf(node));
    let isGone = true;
    try {
      await staged?.place(undefined, staged.base, staged.condition, obsolete);
      if (obsolete !== undefined) {
        const isOpen = node.opens > 0;
        const removed = async (): Promise<void> => {
          if (isOpen) await staged?.noteGone(key).catch(() => undefined);
        };
        const isPlain = !isOpen && staged === undefined;
        isGone = await this.#remove(obsolete, directory, node.name, deadline, isPlain, removed);
      }
    } catch (error) {
      await staged?.place(pathOf(node), staged.base, staged.condition);
      tree.leaving(node, undefined);
      await undo().catch(() => undefined);
      throw error;
    }
    learnAbsent(directory, node.name);
    files.writeback.clean(node);
    tree.detach(node);
    if (node.opens === 0) await files.discard(node);
    else if (obsolete !== undefined && isGone) await staged?.noteGone(key);
  }

  /**
   * Removes the object of a name, as `PendingDeletes.removeNow` does.
   * @param removed called when it is gone, if it is not when this returns.
   */
  #remove(
    removal: Removal,
    directory: Directory,
    name: string,
    deadline: Deadline,
    mayGather = true,
    removed: () => Promise<void> = async () => undefined,
  ): Promise<boolean> {
    const owner = {
      removed: () => {
        // A listing that began before may still have it. A file in the place of a directory, or the
        // other way round, has another key, and may have come meanwhile.
        const kind = directory.names.get(name)?.kind ?? 'absent';
        if (kind === 'absent') learnAbsent(directory, name);
        return removed();
      },
      kept: () => unlearn(directory, name),
    };
    return this.mounted.services.pendingDeletes.removeNow(removal, owner, deadline, mayGather);
  }

  async rmdir(parent: Node, name: string, context: Context): Promise<void> {
    const directory = this.directory(parent);
    await this.#changing(directory, name, context, async () => {
      const { services, tree } = this.mounted;
      const deadline = this.deadline(context);
      const found = await this.find(directory, name, this.ttl, () => deadline);
      if (found === undefined) throw FsError.of('ENOENT');
      const node = this.directory(found);
      this.#mayGo(node);
      await this.#mustBeEmpty(node, deadline);
      await this.#anchor(directory, deadline);
      tree.leaving(node, pathOf(node));
      try {
        await this.#remove({ key: services.keys.directory(pathOf(node)) }, directory, name, deadline);
      } catch (error) {
        tree.leaving(node, undefined);
        throw error;
      }
      learnAbsent(directory, name);
      tree.detach(node);
      this.#touch(directory);
    });
  }

  /**
   * Checks that a directory is empty by asking the bucket, since other clients' files count.
   * @throws ENOTEMPTY
   */
  async #mustBeEmpty(node: Directory, deadline: Deadline): Promise<void> {
    const { bucket, keys, pendingDeletes } = this.mounted.services;
    const children = [...node.children.values()];
    if (children.some((child) => child.kind === 'file' && child.staged !== undefined))
      throw FsError.of('ENOTEMPTY');
    const prefix = keys.directory(pathOf(node));
    await pendingDeletes.renamedAway(prefix, deadline);
    let leaving = pendingDeletes.below(prefix);
    if (leaving.size > LEAVING_MAX) {
      await pendingDeletes.settledBelow(prefix, deadline);
      leaving = pendingDeletes.below(prefix);
    }
    const isLeaving = (object: RemoteObject): boolean =>
      leaving.has(object.key) && isWhatGoes({ etag: leaving.get(object.key) }, object);
    let objects: readonly RemoteObject[];
    let token: string | undefined;
    do {
      const page = await bucket.list(prefix, '', token, 2 + leaving.size, deadline);
      objects = page.objects.filter((object) => !isLeaving(object));
      token = page.next;
    } while (token !== undefined && objects.every(({ key, size }) => key === prefix && size === 0));
    const content = objects.find(({ key, size }) => key === prefix && size > 0);
    if (content !== undefined) {
      const { size } = content;
      this.mounted.services.log.warn({ key: prefix, size }, OWN_CONTENT);
      throw FsError.of('ENOTEMPTY');
    }
    const below = objects.find(({ key }) => key !== prefix);
    if (below === undefined) return;
    const [part = ''] = below.key.slice(prefix.length).split('/');
    if (decodePart(part) === undefined) this.mounted.services.log.warn({ key: below.key }, HIDDEN);
    throw FsError.of('ENOTEMPTY');
  }

  async rename(
    parent: Node,
    name: string,
    newParent: Node,
    newName: string,
    flags: number,
    context: Context,
  ): Promise<void> {
    const from = this.directory(parent);
    const to = this.directory(newParent);
    await this.guard(async () => {
      if (from.isAssumed) await this.present(from, context);
      if (to.isAssumed) await this.present(to, context);
      this.#allowed(to, newName);
      if ((flags & ~RenameFlags.NOREPLACE) !== 0) throw FsError.of('EINVAL');
      const found = await this.find(from, name, this.ttl, () => this.deadline(context));
      if (found !== undefined) {
        // What a copy relies on is found out beside what comes before it.
        this.mounted.services.bucket.expectWrite();
        await this.mounted.renames.prepare(found);
      }
      await this.mounted.renames.run(from, to, () => this.#rename(from, name, to, newName, flags, context));
    });
  }

  async #rename(
    from: Directory,
    name: string,
    to: Directory,
    newName: string,
    flags: number,
    context: Context,
  ): Promise<void> {
    const deadline = this.deadline(context);
    const maxAge = (flags & RenameFlags.NOREPLACE) === 0 ? this.ttl : 0;
    const node = await this.find(from, name, this.ttl, () => deadline);
    if (node === undefined) throw FsError.of('ENOENT');
    const replaced = await this.find(to, newName, maxAge, () => deadline);
    if (replaced === node) return;
    if (replaced !== undefined && (flags & RenameFlags.NOREPLACE) !== 0) throw FsError.of('EEXIST');
    this.#mayGo(node);
    if (replaced !== undefined) this.#mayReplace(replaced);
    await this.#anchor(from, deadline);
    if (node.kind === 'directory') await this.#renameDirectory(node, to, newName, replaced, deadline);
    else {
      if (replaced?.kind === 'directory') throw FsError.of('EISDIR');
      await this.mounted.renames.file(node, to, newName, replaced);
      if (node.opens === 0 && node.staged !== undefined) {
        this.mounted.files.writeback.schedule(node, this.options.writebackDelay);
      }
    }
    this.#touch(from);
    this.#touch(to);
  }

  async #renameDirectory(
    node: Directory,
    to: Directory,
    newName: string,
    replaced: Node | undefined,
    deadline: Deadline,
  ): Promise<void> {
    for (let above: Directory | undefined = to; above !== undefined; above = above.parent) {
      if (above === node) throw FsError.of('EINVAL');
    }
    if (replaced?.kind === 'file') throw FsError.of('ENOTDIR');
    if (replaced !== undefined) {
      await this.#mustBeEmpty(replaced, deadline);
      this.mounted.tree.detach(replaced);
    }
    await this.mounted.renames.directory(node, to, newName);
  }

  /**
   * Tells, once, of a change at a path that lost a race after its writer had gone.
   * @throws EIO. The kernel repeats what gets ESTALE, so that nobody would see it.
   */
  #tellLoss(path: string): void {
    if (this.mounted.files.losses.take(path)) throw FsError.of('EIO');
  }

  override open(node: Node, flags: number, context: Context): Awaitable<Opened<OpenFile>> {
    this.#tellLoss(pathOf(node));
    // What was opened before may have been uploaded since.
    if (context !== DAEMON) this.#mayOpen(node, flags);
    const opened = super.open(node, flags, context);
    if ((flags & OpenFlags.TRUNC) === 0) return opened;
    return andThen(opened, (done) => this.#resize(this.file(node), 0, context).then(() => done));
  }

  async create(
    parent: Node,
    name: string,
    mode: number,
    flags: number,
    context: Context,
  ): Promise<Created<Node, OpenFile>> {
    const directory = this.directory(parent);
    const append = (flags & OpenFlags.APPEND) !== 0;
    return this.#changing(directory, name, context, async () => {
      const { files, tree } = this.mounted;
      const deadline = this.deadline(context);
      const posix = this.#creation(directory, FileType.REGULAR | (mode & 0o7777), context);
      const isExclusive = (flags & OpenFlags.EXCL) !== 0;
      if (isExclusive && this.options.exclusive === 'mount')
        await this.#mustBeFree(directory, name, deadline);
      else if (isExclusive) {
        const node = await this.#make(directory, name, nothing, posix, deadline);
        return { ...this.entry(node), file: files.open(node, append) };
      }
      this.#tellLoss(childPath(directory, name));
      const found = await this.find(directory, name, this.ttl, () => deadline);
      if (found !== undefined) {
        const node = this.file(found);
        this.#mayOpen(node, flags);
        const file = files.open(node, append);
        if ((flags & OpenFlags.TRUNC) !== 0) await this.#resize(node, 0, context);
        return { ...this.entry(node), file };
      }
      const node = tree.create(directory, name, posix);
      try {
        await files.create(node, deadline);
      } catch (error) {
        tree.detach(node);
        throw error;
      }
      this.#touch(directory);
      return { ...this.entry(node), file: files.open(node, append) };
    });
  }

  async write(
    _node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    flags: number,
    context: Context,
  ): Promise<number> {
    // Data from the guest's page cache is written at its offset, even if the file was opened to
    // append.
    const fixed = (flags & WriteFlags.CACHE) !== 0;
    return this.guard(async () => {
      const { node } = file;
      if (node.isAssumed) await this.present(node, context);
      const cleared = this.#clearPrivileges(node, (flags & WriteFlags.KILL_SUIDGID) !== 0, context);
      if (cleared !== undefined) await cleared;
      return this.mounted.files.write(file, buffer, offset, fixed, this.deadline(context));
    });
  }

  /** @returns undefined where a file has nothing that goes with a change of its content. */
  #clearPrivileges(node: FileNode, clearsSetIds: boolean, context: Context): Promise<void> | undefined {
    if (withoutPrivileges(node.posix, clearsSetIds) === node.posix) return undefined;
    const clear = (posix: Posix): Posix => withoutPrivileges(posix, clearsSetIds);
    return this.mounted.files.setPosix(node, this.deadline(context), clear);
  }

  flush(node: Node, file: OpenFile, context: Context): Awaitable<void> {
    const { close, conflicts } = this.options;
    if (close === 'wait' || conflicts === 'refuse') return this.#commit(this.file(node), file, context);
    // What is known already is told, even though nothing is waited for.
    if (file.changed && !node.removed) this.#mustBeCurrent(this.file(node), file);
  }

  /** @throws ESTALE if another writer's change has replaced what a handle has open, or EIO. */
  #mustBeCurrent(node: FileNode, file: OpenFile): void {
    if (file.version === node.version) return;
    this.mounted.files.losses.take(pathOf(node));
    throw outdated(file);
  }

  async fsync(node: Node, file: OpenFile, _dataOnly: boolean, context: Context): Promise<void> {
    await this.#commit(this.file(node), file, context);
  }

  async #commit(node: FileNode, file: OpenFile, context: Context): Promise<void> {
    await this.guard(async () => {
      if (node.removed) return;
      this.#mustBeCurrent(node, file);
      if (this.options.durability === 'local') await this.mounted.files.sync(node);
      else await this.mounted.files.commit(node, this.patient(context), true);
    });
  }

  async fsyncdir(node: Node, _dataOnly: boolean, context: Context): Promise<void> {
    const children = [...this.directory(node).children.values()];
    await this.#commitAll(
      children.filter((child) => child.kind === 'file' && child.staged !== undefined) as FileNode[],
      context,
    );
    await this.#removalsDurable(context);
  }

  async syncfs(context: Context): Promise<void> {
    await this.#commitAll(this.mounted.files.writeback.files, context);
    await this.#removalsDurable(context);
  }

  async #removalsDurable(context: Context): Promise<void> {
    const { pendingDeletes } = this.mounted.services;
    const isLocal = this.options.durability === 'local';
    await this.guard(() => (isLocal ? pendingDeletes.sync() : pendingDeletes.flush(this.patient(context))));
  }

  async #commitAll(files: readonly FileNode[], context: Context): Promise<void> {
    await this.guard(async () => {
      const work = files.map((node) =>
        this.options.durability === 'local'
          ? this.mounted.files.sync(node)
          : this.mounted.files.commit(node, Deadline.never),
      );
      for (const result of await this.patient(context).wait(Promise.allSettled(work))) {
        if (result.status === 'rejected') throw result.reason;
      }
    });
  }

  async #resize(node: FileNode, size: number, context: Context, clearsSetIds = false): Promise<void> {
    if (size > this.options.maxFile && size > node.size) throw FsError.of('EFBIG');
    await this.#clearPrivileges(node, clearsSetIds, context);
    await this.mounted.files.resize(node, size, this.deadline(context));
  }

  async setattr(
    node: Node,
    changes: AttributeChanges,
    file: OpenFile | undefined,
    context: Context,
  ): Promise<Attributes> {
    const apply = (old: Posix): Posix => {
      const next = changed(old, changes);
      if (!attributesFit(next)) throw FsError.of('ENOSPC');
      return next;
    };
    return this.guard(async () => {
      if (node.isAssumed) await this.present(node, context);
      const deadline = this.deadline(context);
      if (node.kind === 'directory') {
        const posix = apply(node.posix);
        if (!this.#isInBucket(node, posix, changes)) await this.#setDirectory(node, posix, deadline);
        else {
          node.posix = posix;
          if (node.parent !== undefined) learnDirectory(node.parent, node.name, true, posix);
        }
      } else {
        if (file !== undefined && file.version !== node.version) throw outdated(file);
        if (changes.size !== undefined && file === undefined) this.#mayReplace(node);
        const { size, killSuidGid, ...others } = changes;
        if (size !== undefined) await this.#resize(node, size, context, killSuidGid === true);
        else if (killSuidGid === true) await this.#clearPrivileges(node, true, context);
        if (Object.keys(others).length > 0) {
          apply(node.posix);
          await this.#setFile(node, deadline, apply);
        } else this.#soon(node);
      }
      return this.attributes(node);
    });
  }

  /**
   * Whether this mount has a moment ago written a directory with the owner and permissions that it
   * is given once more, and nothing else: then its ctime changes here alone, as by a change of its
   * names.
   */
  #isInBucket(node: Directory, { mode, uid, gid }: Posix, changes: AttributeChanges): boolean {
    const { posix: old, marker } = node;
    const { bucket, keys } = this.mounted.services;
    const isSame = mode === old.mode && uid === old.uid && gid === old.gid;
    const isAll = Object.keys(changes).every((name) => ['mode', 'uid', 'gid', 'ctime'].includes(name));
    return isSame && isAll && marker === true && bucket.wrote(keys.directory(pathOf(node)));
  }

  async #setDirectory(node: Directory, posix: Posix, deadline: Deadline): Promise<void> {
    const { bucket, keys } = this.mounted.services;
    const key = keys.directory(pathOf(node));
    // The root has no key if there is no prefix: its attributes last while it is mounted.
    if (key !== '') {
      const isKnown = node.marker === false || bucket.wrote(key);
      const asked = isKnown ? undefined : bucket.head(key, deadline);
      const head = await asked;
      if (head !== undefined && head.size > 0) {
        // What others have put there stays.
        await copyObject(this.mounted.services, head, key, posix, randomUUID());
      } else {
        const content = contentOf(posix, undefined);
        const beside = node.marker === false ? {} : await bucket.beside({ key }, deadline, asked);
        const whole = { ...content, headers: { ...content.headers, ...beside } };
        await bucket.put(key, nothing, whole, undefined, deadline);
      }
    }
    node.posix = posix;
    node.touched = undefined;
    node.marker = true;
    if (node.parent !== undefined) learnDirectory(node.parent, node.name, true, posix);
  }

  async #setFile(node: FileNode, deadline: Deadline, change: (posix: Posix) => Posix): Promise<void> {
    await this.mounted.files.setPosix(node, deadline, change);
    this.#soon(node);
  }

  /** Schedules the upload of a changed file that nobody has open. */
  #soon(node: FileNode): void {
    if (node.opens === 0 && !node.removed) {
      this.mounted.files.writeback.schedule(node, this.options.writebackDelay);
    }
  }

  async setxattr(
    node: Node,
    name: string,
    value: Uint8Array,
    flags: number,
    _killSgid: boolean,
    context: Context,
  ): Promise<void> {
    this.checkXattr(name);
    const copy = Uint8Array.from(value);
    await this.#setXattrs(node, context, (xattrs) => {
      if ((flags & XattrFlags.CREATE) !== 0 && xattrs.has(name)) throw FsError.of('EEXIST');
      if ((flags & XattrFlags.REPLACE) !== 0 && !xattrs.has(name)) throw FsError.of('ENODATA');
      xattrs.set(name, copy);
    });
  }

  async removexattr(node: Node, name: string, context: Context): Promise<void> {
    this.checkXattr(name);
    await this.#setXattrs(node, context, (xattrs) => {
      if (!xattrs.delete(name)) throw FsError.of('ENODATA');
    });
  }

  async #setXattrs(
    node: Node,
    context: Context,
    change: (xattrs: Map<string, Uint8Array>) => void,
  ): Promise<void> {
    const apply = (posix: Posix): Posix => {
      const xattrs = new Map(posix.xattrs);
      change(xattrs);
      const next = { ...posix, xattrs, ctime: now() };
      if (metadataSize(next) > METADATA_MAX_BYTES) throw FsError.of('ENOSPC');
      return next;
    };
    await this.guard(async () => {
      if (node.isAssumed) await this.present(node, context);
      if (node.kind === 'file') {
        apply(node.posix);
        await this.#setFile(node, this.deadline(context), apply);
      } else await this.#setDirectory(node, apply(node.posix), this.deadline(context));
    });
  }

  async fallocate(
    node: Node,
    file: OpenFile,
    mode: number,
    offset: number,
    length: number,
    context: Context,
  ): Promise<void> {
    const target = this.file(node);
    if (target.isAssumed) await this.present(target, context);
    if (file.version !== target.version) throw outdated(file);
    const keep = (mode & FallocateMode.KEEP_SIZE) !== 0;
    const zeroes = (mode & (FallocateMode.PUNCH_HOLE | FallocateMode.ZERO_RANGE)) !== 0;
    const known = FallocateMode.KEEP_SIZE | FallocateMode.PUNCH_HOLE | FallocateMode.ZERO_RANGE;
    if ((mode & ~known) !== 0) throw FsError.of('EOPNOTSUPP');
    if ((mode & FallocateMode.PUNCH_HOLE) !== 0 && !keep) throw FsError.of('EOPNOTSUPP');
    await this.guard(async () => {
      const { files } = this.mounted;
      await this.#clearPrivileges(target, context.uid !== 0, context);
      if (!keep && offset + length > target.size) await this.#resize(target, offset + length, context);
      const end = Math.min(target.size, offset + length);
      if (zeroes && end > offset) await files.zero(target, offset, end - offset, this.deadline(context));
    });
  }
}

function changed(posix: Posix, changes: AttributeChanges): Posix {
  const time = now();
  const set = (value: Time | 'now' | undefined, old: Time): Time => (value === 'now' ? time : (value ?? old));
  const isOwned = changes.uid !== undefined || changes.gid !== undefined;
  const isFile = (posix.mode & FileType.MASK) !== FileType.DIRECTORY;
  const { mode, xattrs } = isFile && isOwned ? withoutPrivileges(posix, true) : posix;
  return {
    ...posix,
    xattrs,
    mode: changes.mode === undefined ? mode : (mode & FileType.MASK) | (changes.mode & 0o7777),
    uid: changes.uid ?? posix.uid,
    gid: changes.gid ?? posix.gid,
    atime: set(changes.atime, posix.atime),
    mtime: set(changes.mtime, posix.mtime),
    ctime: changes.ctime ?? time,
  };
}
