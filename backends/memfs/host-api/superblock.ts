import {
  createEisdirError,
  createError,
  type File,
  filenameToSteps,
  FsEvent,
  type IProcess,
  type Link,
  type Node,
  Superblock,
} from '@jsonjoy.com/fs-core';
import { FileType, FsError, nameLength, NAME_MAX, type NodeChange } from '../../../core/backend/index.js';
import type { Inode } from '../tree/inode.js';
import { LinkView } from './link-view.js';
import { NodeView } from './node-view.js';
import type { Creator, Tree } from '../tree/tree.js';

/** The host program acts as root. */
const HOST: Creator = { uid: 0, gid: 0, umask: 0, groups: [], securityContext: undefined };

const PROCESS: IProcess = {
  cwd: () => '/',
  platform: 'linux',
  env: {},
  emitWarning: (message, type) => process.emitWarning(message, type),
  getuid: () => HOST.uid,
  getgid: () => HOST.gid,
};

/** What the types of memfs's events mean; a renamed name is made. */
const KINDS: readonly NodeChange['kind'][] = ['made', 'removed', 'content', 'attributes', 'made'];

/** A path's last name: its directory, and its link if it exists. */
interface Place {
  readonly parent: LinkView;
  readonly name: string;
  readonly link: LinkView | undefined;
}

/**
 * memfs's core over a tree, so that a host program uses the ordinary memfs API while guests use the
 * same files. memfs resolves paths and keeps descriptors; the tree does everything else. memfs's
 * own operations on names are replaced: they follow links that Linux does not follow, and leave
 * wrong link counts.
 */
export class TreeSuperblock extends Superblock {
  readonly #tree: Tree;
  readonly #nodes = new WeakMap<Inode, NodeView>();
  /** The link by which an inode was found last. memfs's watchers identify a link by its object. */
  readonly #links = new WeakMap<Inode, LinkView>();

  constructor(tree: Tree) {
    super({ process: PROCESS });
    this.#tree = tree;
    this.inodes = {};
    this.maxFiles = Infinity;
    this.root = new LinkView(this, undefined, '', tree.root);
  }

  /** Is told what the host program changes. */
  changed: ((directory: Inode, change: NodeChange) => void) | undefined = undefined;

  protected override emit(event: FsEvent): void {
    super.emit(event);
    this.#tell(event.steps, KINDS[event.type] ?? 'attributes');
    if (event.oldSteps !== undefined) this.#tell(event.oldSteps, 'removed');
  }

  /** @param steps a path from the root, which is its first step. */
  #tell(steps: readonly string[], kind: NodeChange['kind']): void {
    if (this.changed === undefined || steps.length < 2) return;
    let directory: Inode | undefined = this.#tree.root;
    for (const name of steps.slice(1, -1))
      directory = directory?.entries === undefined ? undefined : this.#tree.lookup(directory, name);
    if (directory !== undefined) this.changed(directory, { kind, name: steps.at(-1)! });
  }

  nodeOf(inode: Inode): NodeView {
    let view = this.#nodes.get(inode);
    if (view === undefined) {
      view = new NodeView(this.#tree, inode);
      this.#nodes.set(inode, view);
    }
    return view;
  }

  childOf(parent: LinkView, name: string): LinkView | undefined {
    if (parent.inode.entries === undefined) return undefined;
    const inode = this.#tree.lookup(parent.inode, name);
    if (inode === undefined) return undefined;
    const known = this.#links.get(inode);
    if (known !== undefined && known.parent === parent && known.name === name) return known;
    const link = new LinkView(this, parent, name, inode);
    this.#links.set(inode, link);
    return link;
  }

  override createLink(): Link;
  override createLink(parent: Link, name: string, isDirectory?: boolean, mode?: number): LinkView;
  override createLink(parent?: Link, name = '', isDirectory = false, mode?: number): Link {
    // The base constructor makes a root before there is a tree.
    if (!(#tree in this) || !(parent instanceof LinkView)) return super.createLink();
    checkName(name, 'open');
    const type = isDirectory ? FileType.DIRECTORY : (mode ?? 0) & FileType.MASK || FileType.REGULAR;
    const permissions = (mode ?? (isDirectory ? 0o777 : 0o666)) & ~FileType.MASK;
    named('open', name, undefined, () => this.#tree.create(parent.inode, name, type | permissions, 0, HOST));
    return this.childOf(parent, name)!;
  }

  override deleteNode(node: Node): void {
    if (node instanceof NodeView) this.#tree.reap(node.inode);
  }

  override openLink(link: Link, flags: number, resolveSymlinks?: boolean, filename?: string): File {
    const file = named('open', filename, undefined, () =>
      super.openLink(link, flags, resolveSymlinks, filename),
    );
    if (file.node instanceof NodeView) file.node.inode.descriptors += 1;
    return file;
  }

  protected override closeFile(file: File): void {
    const wasOpen = this.fds[file.fd] !== undefined;
    super.closeFile(file);
    if (!wasOpen || !(file.node instanceof NodeView)) return;
    file.node.inode.descriptors -= 1;
    this.#tree.reap(file.node.inode);
  }

  override write(
    fd: number,
    source: Buffer,
    offset?: number,
    length?: number,
    position?: number | null,
  ): number {
    return named('write', undefined, undefined, () => super.write(fd, source, offset, length, position));
  }

  override readonly link = (from: string, to: string): void => {
    const existing = this.getLinkOrThrow(from, 'link');
    if (!(existing instanceof LinkView)) return;
    const { parent, name } = this.#place(to, 'link');
    named('link', from, to, () => this.#tree.link(existing.inode, parent.inode, name));
    this.#created(parent, name);
  };

  override readonly unlink = (path: string): void => {
    const { parent, name, link } = this.#place(path, 'unlink');
    named('unlink', path, undefined, () => this.#tree.unlink(parent.inode, name));
    this.#deleted(link!);
  };

  override readonly symlink = (target: string, path: string): Link => {
    const { parent, name } = this.#place(path, 'symlink');
    if (target === '') throw createError('ENOENT', 'symlink', target, path);
    named('symlink', target, path, () => this.#tree.symlink(parent.inode, name, target, HOST));
    return this.#created(parent, name);
  };

  override readonly rename = (from: string, to: string): void => {
    const old = this.#place(from, 'rename');
    const { parent, name } = this.#place(to, 'rename');
    named('rename', from, to, () =>
      this.#tree.rename(old.parent.inode, old.name, parent.inode, name, 0, HOST),
    );
    const link = this.childOf(parent, name)!;
    this.emit(new FsEvent(4, link.steps, link.getNode(), link, old.link!.steps));
  };

  override readonly mkdir = (path: string, mode: number): void => {
    if (filenameToSteps(path, '/').length === 0) throw createError('EEXIST', 'mkdir', path);
    const { parent, name } = this.#place(path, 'mkdir');
    const type = FileType.DIRECTORY | (mode & ~FileType.MASK);
    named('mkdir', path, undefined, () => this.#tree.create(parent.inode, name, type, 0, HOST));
    this.#created(parent, name);
  };

  override readonly mkdirp = (path: string, mode: number): string | undefined => {
    const steps = filenameToSteps(path, '/');
    let made: string | undefined;
    for (let count = 1; count <= steps.length; count++) {
      const part = `/${steps.slice(0, count).join('/')}`;
      const found = this.walk(part, true, true, false, 'mkdir');
      if (found.ok) {
        if (found.value?.getNode().isDirectory() !== true) throw createError('ENOTDIR', 'mkdir', path);
        continue;
      }
      this.mkdir(part, mode);
      made ??= path;
    }
    return made;
  };

  override readonly rmdir = (path: string, recursive = false): void => {
    const { parent, name, link } = this.#place(path, 'rmdir');
    if (link !== undefined && !link.getNode().isDirectory()) throw createError('ENOTDIR', 'rmdir', path);
    if (recursive && link !== undefined) this.#empty(link);
    named('rmdir', path, undefined, () => this.#tree.rmdir(parent.inode, name));
    this.#deleted(link!);
  };

  override readonly rm = (path: string, force = false, recursive = false): void => {
    const found = this.walk(path, false, true, false, 'rm');
    if (!found.ok) {
      if (force && found.err.code === 'ENOENT') return;
      throw found.err.toError();
    }
    const isDirectory = found.value!.getNode().isDirectory();
    if (isDirectory && !recursive) throw createEisdirError('rm', path);
    if (isDirectory) this.rmdir(path, true);
    else this.unlink(path);
  };

  override reset(): void {
    for (const file of Object.values(this.fds)) this.closeFile(file);
    this.#empty(this.root as LinkView);
  }

  /** Finds the directory of a path's last name. @throws ENOENT, ENOTDIR, as memfs does. */
  #place(path: string, call: string): Place {
    const steps = filenameToSteps(path, '/');
    const name = steps.pop();
    if (name === undefined) throw createError('EBUSY', call, path);
    checkName(name, call, path);
    const parent = this.getResolvedLinkOrThrow(`/${steps.join('/')}`, call);
    if (!(parent instanceof LinkView) || !parent.getNode().isDirectory()) {
      throw createError('ENOTDIR', call, path);
    }
    return { parent, name, link: this.childOf(parent, name) };
  }

  #empty(directory: LinkView): void {
    for (const name of Array.from(directory.inode.entries?.keys() ?? [])) {
      const link = this.childOf(directory, name)!;
      if (link.inode.entries === undefined) this.#tree.unlink(directory.inode, name);
      else {
        this.#empty(link);
        this.#tree.rmdir(directory.inode, name);
      }
      this.#deleted(link);
    }
  }

  #created(parent: LinkView, name: string): LinkView {
    const link = this.childOf(parent, name)!;
    this.emit(new FsEvent(0, link.steps, link.getNode(), link));
    return link;
  }

  #deleted(link: LinkView): void {
    this.emit(new FsEvent(1, link.steps, link.getNode(), link));
  }
}

function checkName(name: string, call: string, path = name): void {
  if (nameLength(name) > NAME_MAX) throw createError('ENAMETOOLONG', call, path);
}

/** Runs a change of the tree. Its errors become memfs's, which name the call and the paths. */
function named<T>(call: string, path: string | undefined, destination: string | undefined, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof FsError) throw createError(error.code, call, path, destination);
    throw error;
  }
}
