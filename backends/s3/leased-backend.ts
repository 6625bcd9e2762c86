import {
  andThen,
  FsError,
  type Attributes,
  type AttributeChanges,
  type Awaitable,
  type CachePolicy,
  type Context,
  type Created,
  type DirectoryEntry,
  type Entry,
  type GuestBuffer,
  type LockHold,
  type Opened,
} from '../../core/backend/index.js';
import type { Leases } from './leases/leases.js';
import type { Node } from './tree/nodes.js';
import { WritableBackend } from './writable-backend.js';
import type { OpenFile } from './write/files.js';

/**
 * Serves a bucket for several hosts whose guests keep to each other's locks. Under a lock nothing
 * is believed that was heard before; guests ask for everything, since they can't be told.
 */
export class LeasedBackend extends WritableBackend {
  override readonly cache: CachePolicy = {
    entryTimeout: 0,
    negativeTimeout: 0,
    attributeTimeout: 0,
    data: 'auto',
    writeback: false,
  };

  get #leases(): Leases {
    return this.mounted.leases!;
  }

  protected override get ttl(): number {
    return Math.min(super.ttl, performance.now() - this.#leases.freshSince);
  }

  lock(node: Node, hold: LockHold, isWaiting: boolean, context: Context | undefined): Awaitable<void> {
    if (node.kind === 'directory') throw FsError.of('EOPNOTSUPP');
    const locked = this.#leases.lock(node, hold, isWaiting, context);
    return locked instanceof Promise ? this.guard(() => locked) : locked;
  }

  /** Runs what may be done as long as the lease is not lost. */
  #held<T>(isChange: boolean, context: Context, operation: () => Awaitable<T>): Awaitable<T> {
    const checked = this.#leases.check(isChange, context);
    return checked instanceof Promise ? this.guard(async () => checked).then(operation) : operation();
  }

  async #changing<T>(context: Context, operation: () => Awaitable<T>): Promise<T> {
    return this.#held(true, context, operation);
  }

  override lookup(parent: Node, name: string, context: Context): Awaitable<Entry<Node> | undefined> {
    return this.#held(false, context, () => super.lookup(parent, name, context));
  }

  override getattr(node: Node, file: OpenFile | undefined, context: Context): Awaitable<Attributes> {
    return this.#held(false, context, () => super.getattr(node, file, context));
  }

  override open(node: Node, flags: number, context: Context): Awaitable<Opened<OpenFile>> {
    return this.#held(false, context, () => super.open(node, flags, context));
  }

  override async readdir(node: Node, context: Context): Promise<Iterable<DirectoryEntry>> {
    return this.#held(false, context, () => super.readdir(node, context));
  }

  override async read(
    node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    context: Context,
  ): Promise<number> {
    return this.#held(false, context, () =>
      andThen(this.refresh(node, this.ttl, context), () => super.read(node, file, buffer, offset, context)),
    );
  }

  override async write(
    node: Node,
    file: OpenFile,
    buffer: GuestBuffer,
    offset: number,
    flags: number,
    context: Context,
  ): Promise<number> {
    return this.#changing(context, () =>
      andThen(this.refresh(node, this.ttl, context), () =>
        super.write(node, file, buffer, offset, flags, context),
      ),
    );
  }

  override async setattr(
    node: Node,
    changes: AttributeChanges,
    file: OpenFile | undefined,
    context: Context,
  ): Promise<Attributes> {
    return this.#changing(context, () =>
      andThen(this.refresh(node, this.ttl, context), () => super.setattr(node, changes, file, context)),
    );
  }

  override async fallocate(
    node: Node,
    file: OpenFile,
    mode: number,
    offset: number,
    length: number,
    context: Context,
  ): Promise<void> {
    return this.#changing(context, () =>
      andThen(this.refresh(node, this.ttl, context), () =>
        super.fallocate(node, file, mode, offset, length, context),
      ),
    );
  }

  override async create(
    parent: Node,
    name: string,
    mode: number,
    flags: number,
    context: Context,
  ): Promise<Created<Node, OpenFile>> {
    return this.#changing(context, () => super.create(parent, name, mode, flags, context));
  }

  override async mknod(
    parent: Node,
    name: string,
    mode: number,
    rdev: number,
    context: Context,
  ): Promise<Entry<Node>> {
    return this.#changing(context, () => super.mknod(parent, name, mode, rdev, context));
  }

  override async mkdir(parent: Node, name: string, mode: number, context: Context): Promise<Entry<Node>> {
    return this.#changing(context, () => super.mkdir(parent, name, mode, context));
  }

  override async symlink(parent: Node, name: string, target: string, context: Context): Promise<Entry<Node>> {
    return this.#changing(context, () => super.symlink(parent, name, target, context));
  }

  override async unlink(parent: Node, name: string, context: Context): Promise<void> {
    return this.#changing(context, () => super.unlink(parent, name, context));
  }

  override async rmdir(parent: Node, name: string, context: Context): Promise<void> {
    return this.#changing(context, () => super.rmdir(parent, name, context));
  }

  override async rename(
    parent: Node,
    name: string,
    newParent: Node,
    newName: string,
    flags: number,
    context: Context,
  ): Promise<void> {
    return this.#changing(context, () => super.rename(parent, name, newParent, newName, flags, context));
  }

  override async setxattr(
    node: Node,
    name: string,
    value: Uint8Array,
    flags: number,
    killSgid: boolean,
    context: Context,
  ): Promise<void> {
    return this.#changing(context, () => super.setxattr(node, name, value, flags, killSgid, context));
  }

  override async removexattr(node: Node, name: string, context: Context): Promise<void> {
    return this.#changing(context, () => super.removexattr(node, name, context));
  }
}
