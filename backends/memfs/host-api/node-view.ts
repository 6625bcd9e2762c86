import { Node } from '@jsonjoy.com/fs-core';
import { FileType, FsError, type Time } from '../../../core/backend/index.js';
import { Bytes } from '../content/bytes.js';
import { contentOf, type Inode, sizeOf } from '../tree/inode.js';
import type { Tree } from '../tree/tree.js';

/** A date in whole milliseconds, as memfs has its times. */
function dateOf(seconds: number, nanoseconds: number): Date {
  return new Date(seconds * 1000 + Math.floor(nanoseconds / 1_000_000));
}

function timeOf(date: Date): Time {
  const milliseconds = date.getTime();
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanoseconds: (milliseconds - seconds * 1000) * 1_000_000 };
}

/**
 * An inode as memfs's host API sees it. It has no state of its own: reads come from the tree, and
 * writes use the tree's own operations. The host program has root's privileges.
 */
export class NodeView extends Node {
  readonly inode: Inode;
  readonly #tree: Tree;

  constructor(tree: Tree, inode: Inode) {
    super(inode.ino, inode.mode, inode.uid, inode.gid);
    this.inode = inode;
    this.#tree = tree;
    Object.defineProperties(this, {
      mode: {
        get: () => inode.mode,
        set: (mode: number) => {
          this.chmod(mode);
        },
      },
      rdev: { get: () => inode.rdev },
      symlink: { get: () => inode.target },
      buf: { get: () => this.getBuffer() },
    });
  }

  override get uid(): number {
    return this.inode.uid;
  }

  override set uid(uid: number) {
    this.#tree.change(this.inode, { uid }, false);
  }

  override get gid(): number {
    return this.inode.gid;
  }

  override set gid(gid: number) {
    this.#tree.change(this.inode, { gid }, false);
  }

  override get atime(): Date {
    return dateOf(this.inode.atime, this.inode.atimeNsec);
  }

  override set atime(atime: Date) {
    this.#tree.change(this.inode, { atime: timeOf(atime) }, false);
  }

  override get mtime(): Date {
    return dateOf(this.inode.mtime, this.inode.mtimeNsec);
  }

  override set mtime(mtime: Date) {
    this.#tree.change(this.inode, { mtime: timeOf(mtime) }, false);
  }

  override get ctime(): Date {
    return dateOf(this.inode.ctime, this.inode.ctimeNsec);
  }

  override set ctime(ctime: Date) {
    this.#tree.change(this.inode, { ctime: timeOf(ctime) }, false);
  }

  override get btime(): Date {
    return dateOf(this.inode.btime, this.inode.btimeNsec);
  }

  override set btime(btime: Date) {
    const { seconds, nanoseconds } = timeOf(btime);
    this.#tree.touch(this.inode);
    this.inode.btime = seconds;
    this.inode.btimeNsec = nanoseconds;
  }

  override get perm(): number {
    return this.inode.mode & ~FileType.MASK;
  }

  override set perm(perm: number) {
    this.chmod(perm);
  }

  override get nlink(): number {
    return this.inode.nlink;
  }

  /** @throws EPERM: only names make links. */
  override set nlink(_nlink: number) {
    throw FsError.of('EPERM');
  }

  override getString(encoding: BufferEncoding = 'utf8'): string {
    return this.getBuffer().toString(encoding);
  }

  override setString(text: string): void {
    this.setBuffer(Buffer.from(text));
  }

  /** A copy of the content. */
  override getBuffer(): Buffer {
    const content = contentOf(this.inode);
    const copy = Buffer.allocUnsafe(content.size);
    content.read(new Bytes(copy), 0);
    return copy;
  }

  override setBuffer(content: Buffer): void {
    this.truncate(0);
    this.write(content);
  }

  override getSize(): number {
    return sizeOf(this.inode);
  }

  override setModeProperty(mode: number): void {
    this.chmod(mode);
  }

  /** @throws EPERM: a file keeps its type. */
  override makeSymlink(): void {
    throw FsError.of('EPERM');
  }

  override write(source: Buffer, offset = 0, length = source.length, position = 0): number {
    const bytes = new Bytes(source.subarray(offset, offset + length));
    if (bytes.length === 0) return 0;
    const { arena, space, clock } = this.#tree;
    this.#tree.touch(this.inode);
    const written = contentOf(this.inode).write(bytes, position, arena, space);
    clock.tick();
    this.inode.modified(clock);
    return written;
  }

  override read(target: ArrayBufferView, offset = 0, length = target.byteLength, position = 0): number {
    const room = Math.min(length, target.byteLength - offset);
    const bytes = new Uint8Array(target.buffer, target.byteOffset + offset, Math.max(0, room));
    return contentOf(this.inode).read(new Bytes(bytes), position);
  }

  override truncate(length = 0): void {
    this.#tree.change(this.inode, { size: Math.max(0, length) }, true);
  }

  override chmod(mode: number): void {
    this.#tree.change(this.inode, { mode }, false);
  }

  override chown(uid: number, gid: number): void {
    this.#tree.change(this.inode, { uid, gid }, false);
  }

  override touch(): void {
    this.#tree.change(this.inode, { mtime: 'now' }, false);
  }

  override canRead(): boolean {
    return true;
  }

  override canWrite(): boolean {
    return true;
  }

  override canExecute(): boolean {
    return true;
  }
}
