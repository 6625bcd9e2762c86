import { randomUUID } from 'node:crypto';
import { FsError } from '../../../core/backend/index.js';
import { now } from '../objects/attributes.js';
import type { RemoteObject } from '../objects/attributes.js';
import { Mutex, parallel } from '../client/concurrency.js';
import { Deadline } from '../client/deadline.js';
import type { Files } from '../write/files.js';
import type { Intents } from '../journal/intents.js';
import type { Removal } from '../journal/removal-log.js';
import type { NameLookup } from './name-lookup.js';
import { childPath, learnAbsent, learnDirectory, learnFile, pathOf } from './nodes.js';
import type { Directory, FileNode, Node } from './nodes.js';
import type { Services } from '../service/services.js';
import type { Tree } from './tree.js';
import { removeUnchanged } from '../write/removals.js';
import { contentOf, copyObject, copyWhole } from '../write/upload.js';

/** Most copies of one rename at once. */
const WIDTH = 16;
/**
 * Most uploads of a file that is written all the time, before it is renamed with the rest in its
 * journal.
 */
const SETTLE_UPLOADS = 5;

/** What was copied below a directory. */
interface Copied {
  /** By the key of the original. */
  readonly copies: ReadonlyMap<string, RemoteObject>;
  readonly originals: readonly Removal[];
}

/**
 * Renames by a copy on the server and a deletion. An intent is recorded first, so that the next
 * start finishes what a crash interrupted.
 */
export class Renames {
  readonly #services: Services;
  readonly #nameLookup: NameLookup;
  readonly #tree: Tree;
  readonly #files: Files;
  readonly #intents: Intents;
  /** One rename runs at a time, as in Linux: two that cross would wait for each other. */
  readonly #one = new Mutex();

  constructor(services: Services, nameLookup: NameLookup, tree: Tree, files: Files, intents: Intents) {
    this.#services = services;
    this.#nameLookup = nameLookup;
    this.#tree = tree;
    this.#files = files;
    this.#intents = intents;
  }

  #deadline(): Deadline {
    return Deadline.after(this.#services.options.operationTimeout);
  }

  /** Runs one rename while the names in both directories cannot change. */
  async run(from: Directory, to: Directory, rename: () => Promise<void>): Promise<void> {
    await this.#one.run(() => from.changes.run(() => (from === to ? rename() : to.changes.run(rename))));
  }

  /**
   * Uploads what must be in the bucket before a rename, while no directory is kept from other
   * changes: that may take long. What is written after it is left to the rename itself.
   */
  async prepare(node: Node): Promise<void> {
    const files = node.kind === 'file' ? [node] : filesBelow(node);
    await parallel(files, this.#services.options.uploads, async (file) => {
      if (file.staged === undefined || (node.kind === 'file' && this.#files.isLocal(file))) return;
      await file.changes.run(() => this.#settle(file, node.kind === 'file'));
    });
  }

  /** Renames a file over `replaced`, if there is one. */
  async file(node: FileNode, parent: Directory, name: string, replaced: FileNode | undefined): Promise<void> {
    await this.#files.taking(node, async () => {
      if (node.parent === undefined || node.removed) throw FsError.of('ENOENT');
      await this.#settle(node, true);
      if (replaced === undefined) await this.#tryMove(node, parent, name, undefined);
      else {
        await this.#files.taking(replaced, async () => {
          await this.#files.reconcile(replaced);
          const undo = await this.#files.preserve(replaced);
          this.#tree.leaving(replaced, pathOf(node));
          try {
            await this.#tryMove(node, parent, name, replaced);
          } catch (error) {
            if (!replaced.removed) {
              this.#tree.leaving(replaced, undefined);
              await undo();
            }
            throw error;
          }
          if (replaced.opens === 0) await this.#files.discard(replaced);
        });
      }
    });
  }

  /**
   * Uploads a file's data. The caller holds `node.changes`.
   * @param mayMove whether the file may move with its journal alone instead, where it can.
   */
  async #settle(node: FileNode, mayMove: boolean): Promise<void> {
    await this.#files.reconcile(node);
    for (let i = 0; i < SETTLE_UPLOADS && node.staged !== undefined; i++) {
      if (mayMove && this.#files.isLocal(node)) return;
      await this.#files.uploadIfNeeded(node);
    }
  }

  /** As {@link #move}; a process that follows finds the file whatever became of it. */
  async #tryMove(
    node: FileNode,
    parent: Directory,
    name: string,
    replaced: FileNode | undefined,
  ): Promise<void> {
    this.#tree.moving(node, childPath(parent, name));
    try {
      await this.#move(node, parent, name, replaced);
    } catch (error) {
      this.#tree.moving(node, undefined);
      throw error;
    }
  }

  /**
   * Moves a file. Until it has its new place, a failure leaves everything as it was. After that
   * nothing fails any more: the object at the old key is deleted sooner or later.
   */
  async #move(
    node: FileNode,
    parent: Directory,
    name: string,
    replaced: FileNode | undefined,
  ): Promise<void> {
    const { keys, pendingDeletes, options } = this.#services;
    const from = pathOf(node);
    const path = childPath(parent, name);
    const { staged } = node;
    const { object } = node.version;
    const replaces = replaced?.staged?.id;
    await pendingDeletes.settled(keys.file(path), Deadline.after(options.operationTimeout));
    if (staged !== undefined && this.#files.isLocal(node)) {
      // A journal knows of one old name at a time.
      if (node.pendingDelete !== undefined)
        await pendingDeletes.settled(node.pendingDelete, this.#deadline());
      const condition = replaced?.etag === undefined ? 'absent' : { etag: replaced.etag };
      const obsolete = node.etag === undefined ? undefined : { key: keys.file(from), etag: node.etag };
      await staged.place(path, undefined, condition, obsolete, replaces);
      node.version.object = undefined;
      await this.#moved(node, parent, name, replaced);
      if (obsolete === undefined) return;
      node.pendingDelete = obsolete.key;
      // Nobody waits for it: the journal has it, and the old name is not shown any more.
      void pendingDeletes.remove([obsolete], async () => {
        node.pendingDelete = undefined;
        await staged.noteGone(obsolete.key);
      });
      return;
    }
    if (object === undefined) throw FsError.of('ESTALE');
    const posix = { ...(await this.#files.attributes(node)), ctime: now() };
    const mark = randomUUID();
    const { etag } = object;
    const intent = await this.#intents.begin({ type: 'rename-file', from, to: path, etag, mark, replaces });
    let copy: RemoteObject;
    try {
      copy = await copyObject(this.#services, object, keys.file(path), posix, mark);
    } catch (error) {
      // The caller is told that nothing was renamed, so the next start must not finish it.
      await this.#intents.end(intent);
      throw error;
    }
    if (staged !== undefined) await staged.place(path, copy, { etag: copy.etag });
    node.version.object = copy;
    node.posix = staged?.posix ?? posix;
    await this.#moved(node, parent, name, replaced, copy);
    await pendingDeletes.remove([{ key: keys.file(from), etag }], () => this.#intents.end(intent));
  }

  /** Updates the names in one turn: everyone sees all of the rename or nothing. */
  async #moved(
    node: FileNode,
    parent: Directory,
    name: string,
    replaced: FileNode | undefined,
    copy?: RemoteObject,
  ): Promise<void> {
    if (replaced !== undefined) {
      await this.#files.replaced(replaced);
      this.#tree.detach(replaced);
    }
    if (node.parent !== undefined) learnAbsent(node.parent, node.name);
    this.#tree.move(node, parent, name);
    if (copy !== undefined && node.staged === undefined) learnFile(parent, name, copy, node.posix);
  }

  /**
   * Renames a directory: copies everything below it, then deletes the originals. The target does
   * not exist or is empty.
   */
  async directory(node: Directory, parent: Directory, name: string): Promise<void> {
    const fromParent = node.parent;
    if (fromParent === undefined) throw FsError.of('EBUSY');
    const fromName = node.name;
    const from = pathOf(node);
    const to = childPath(parent, name);
    const { keys, pendingDeletes } = this.#services;
    // What has been removed must not be copied, nor deleted after it was copied to there.
    for (const path of [from, to]) await pendingDeletes.settledBelow(keys.directory(path), this.#deadline());
    const release = this.#files.pauseUploads();
    try {
      const dirty = filesBelow(node).filter(
        (file) => file.staged !== undefined || file.uploading !== undefined,
      );
      await parallel(dirty, this.#services.options.uploads, (file) =>
        file.changes.run(() => this.#settle(file, false)),
      );
      this.#tree.moving(node, to);
      const intent = await this.#intents.begin({ type: 'rename-directory', from, to, phase: 'copy' });
      const { copies, originals } = await this.#copyAll(node, from, to, intent);
      await this.#intents.begin({ type: 'rename-directory', from, to, phase: 'delete' }, intent);
      this.#tree.move(node, parent, name);
      node.marker = true;
      learnAbsent(fromParent, fromName);
      learnDirectory(parent, name, true, node.posix);
      await this.#repoint(node, from, copies);
      await this.#services.pendingDeletes.remove(originals, () => this.#intents.end(intent));
    } catch (error) {
      this.#tree.moving(node, undefined);
      throw error;
    } finally {
      release();
    }
  }

  /**
   * Makes the copies of a rename. If one fails, the others are removed again and nothing was
   * renamed.
   */
  async #copyAll(node: Directory, from: string, to: string, intent: string): Promise<Copied> {
    const { bucket, keys } = this.#services;
    try {
      const copied = await this.copyBelow(from, to);
      if (!copied.copies.has(keys.directory(from))) {
        const marker = contentOf(node.posix, undefined);
        await bucket.put(keys.directory(to), new Uint8Array(0), marker, undefined, this.#deadline());
      }
      return copied;
    } catch (error) {
      await this.#intents.begin({ type: 'rename-directory', from, to, phase: 'undo' }, intent);
      // What cannot be removed now is removed at the next start.
      await this.deleteCopied(to, from).then(
        () => this.#intents.end(intent),
        () => undefined,
      );
      throw error;
    }
  }

  /** Deletes what lies below one directory and has a counterpart of the same size below another. */
  async deleteCopied(from: string, to: string): Promise<void> {
    const { bucket, keys } = this.#services;
    const fromKey = keys.directory(from);
    const copied: Removal[] = [];
    let token: string | undefined;
    do {
      const page = await bucket.list(fromKey, '', token, 1000, this.#deadline());
      await parallel(page.objects, WIDTH, async (object) => {
        const other = await bucket.head(
          keys.directory(to) + object.key.slice(fromKey.length),
          this.#deadline(),
        );
        if (other?.size === object.size) copied.push(object);
      });
      token = page.next;
    } while (token !== undefined);
    await this.deleteAll(copied);
  }

  /** Copies every object below one directory to below another. */
  async copyBelow(from: string, to: string): Promise<Copied> {
    const { bucket, keys } = this.#services;
    const fromKey = keys.directory(from);
    const toKey = keys.directory(to);
    const copies = new Map<string, RemoteObject>();
    const originals: Removal[] = [];
    let token: string | undefined;
    do {
      const page = await bucket.list(fromKey, '', token, 1000, this.#deadline());
      await parallel(page.objects, WIDTH, async (object) => {
        const key = toKey + object.key.slice(fromKey.length);
        const copy = await copyWhole(this.#services, object, key);
        if (copy === undefined) return;
        copies.set(object.key, copy);
        originals.push(object);
      });
      token = page.next;
    } while (token !== undefined);
    return { copies, originals };
  }

  /** @throws the first failure. */
  async deleteAll(removals: readonly Removal[]): Promise<void> {
    const { failed } = await removeUnchanged(this.#services.bucket, removals, () => this.#deadline());
    for (const failure of failed.values()) throw failure;
  }

  /** Gives the files of a moved directory their new objects, and their journals the new place. */
  async #repoint(
    directory: Directory,
    from: string,
    copies: ReadonlyMap<string, RemoteObject>,
  ): Promise<void> {
    const { keys } = this.#services;
    for (const below of directoriesBelow(directory)) this.#nameLookup.drop(below);
    for (const file of filesBelow(directory)) {
      const path = pathOf(file);
      const oldPath = from + path.slice(pathOf(directory).length);
      const copy = copies.get(keys.file(oldPath));
      if (copy !== undefined && file.version.object !== undefined) {
        file.version.object = copy;
        if (file.opens > 0) this.#tree.changed(file);
      }
      const { staged } = file;
      if (staged === undefined) continue;
      const base = staged.base === undefined ? undefined : copy;
      await staged.place(path, base, base === undefined ? 'absent' : { etag: base.etag }, undefined);
    }
  }
}

function filesBelow(directory: Directory): FileNode[] {
  return [...directory.children.values()].flatMap((node: Node) =>
    node.kind === 'directory' ? filesBelow(node) : [node],
  );
}

function directoriesBelow(directory: Directory): Directory[] {
  const below = [...directory.children.values()].flatMap((node: Node) =>
    node.kind === 'directory' ? directoriesBelow(node) : [],
  );
  return [directory, ...below];
}
