import type { OpenFile } from '../../../../backends/s3/write/files.js';
import type { Random } from '../../../support/random.js';
import { context, type Mount, pattern } from '../support.js';
import { digestOf, type Ending, type Step } from './worlds.js';

const NAMES = ['a', 'b', 'c', 'd'];

/** Bytes of large files: several parts of an upload, and more than is compared when it is read. */
const LARGE_BYTES = 12_000_000;

/** Is told of each step before it is made and after it, and of what was read. */
export interface Observer {
  begin(step: Step): void;
  end(ending: Ending): void;
  read(name: string, digest: string | undefined): void;
  /** Whether the process counts as dead: no more is done. */
  readonly isOver: boolean;
}

/** Makes random steps in the root of a mount. */
export class Steps {
  readonly #mount: Mount;
  readonly #random: Random;
  readonly #observer: Observer;

  constructor(mount: Mount, random: Random, observer: Observer) {
    this.#mount = mount;
    this.#random = random;
    this.#observer = observer;
  }

  async #step<T>(step: Step, run: () => Promise<T>): Promise<T | undefined> {
    if (this.#observer.isOver) return undefined;
    this.#observer.begin(step);
    try {
      const result = await run();
      if (this.#observer.isOver) return undefined;
      this.#observer.end({});
      return result;
    } catch (error) {
      if (!this.#observer.isOver) this.#observer.end({ error: String(error) });
      return undefined;
    }
  }

  /** A few steps that belong together, such as those of an editor that saves a file. */
  async next(): Promise<void> {
    const name = this.#random.pick(NAMES);
    const kind = this.#random.below(13);
    if (kind < 4) return this.#write(name);
    if (kind < 6) return this.#read(name);
    if (kind < 9) {
      // A new file, renamed over the old one.
      await this.#write('tmp');
      return this.#rename('tmp', name);
    }
    if (kind < 11) return this.#rename(name, this.#random.pick(NAMES));
    const { backend, root } = this.#mount;
    if (kind === 11)
      await this.#step({ kind: 'unlink', name }, () => unlessMissing(backend.unlink(root, name, context)));
    else await this.#step({ kind: 'sync', name }, () => backend.syncfs(context));
  }

  async #rename(name: string, target: string): Promise<void> {
    const { backend, root } = this.#mount;
    await this.#step({ kind: 'rename', name, target }, () =>
      unlessMissing(backend.rename(root, name, root, target, 0, context)),
    );
  }

  async #write(name: string): Promise<void> {
    const flags = this.#random.chance(30) ? 0o302 : 0o102;
    const file = await this.#step({ kind: 'create', name }, () => this.#create(name, flags));
    if (file === undefined) return;
    const steps = 1 + this.#random.below(3);
    for (let i = 0; i < steps; i++) await this.#change(name, file);
    if (this.#random.chance(50)) await this.#step({ kind: 'sync', name }, () => this.#mount.fsync(file));
    if (this.#observer.isOver) return;
    await this.#mount.release(file).catch(() => undefined);
    if (this.#random.chance(50)) this.#mount.backend.forget(file.node);
  }

  async #create(name: string, flags: number): Promise<OpenFile> {
    try {
      const file = await this.#mount.create(name, flags);
      this.#mount.backend.key(file.node);
      return file;
    } catch (error) {
      if (error instanceof Error && error.message === 'EEXIST' && flags === 0o302)
        return this.#mount.openFile(name);
      throw error;
    }
  }

  async #change(name: string, file: OpenFile): Promise<void> {
    const random = this.#random;
    const isLarge = random.chance(4);
    const at = random.below(isLarge ? LARGE_BYTES : 30_000);
    if (random.chance(20)) {
      await this.#step({ kind: 'truncate', name, size: at }, () =>
        this.#mount.backend.setattr(file.node, { size: at }, file, context),
      );
      return;
    }
    const length = 1 + random.below(isLarge ? 900_000 : 20_000);
    const seed = random.below(1000);
    await this.#step({ kind: 'write', name, at, length, seed }, () =>
      this.#mount.write(file, at, pattern(length, seed)),
    );
  }

  /** Reads a file, which may fail. */
  async #read(name: string): Promise<void> {
    if (this.#observer.isOver) return;
    let digest: string | undefined;
    try {
      const node = await this.#mount.node(name);
      if (node !== undefined) {
        // As the engine does with each node that it takes into use.
        this.#mount.backend.key(node);
        digest = digestOf(await this.#mount.content(name));
        if (this.#random.chance(50)) this.#mount.backend.forget(node);
      }
    } catch {
      return;
    }
    if (!this.#observer.isOver) this.#observer.read(name, digest);
  }
}

async function unlessMissing(change: Promise<void>): Promise<void> {
  await change.catch((error: unknown) => {
    if (!(error instanceof Error) || error.message !== 'ENOENT') throw error;
  });
}
