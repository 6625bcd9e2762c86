import assert from 'node:assert/strict';
import {
  accelerate,
  type Accelerator,
  type Completions,
  type Gathered,
} from '../../core/backend/accelerator.js';
import { FsError, type Awaitable, type GuestBuffer } from '../../core/backend/index.js';
import { TinyBackend, type TinyFile, type TinyNode } from './tiny-backend.js';

type Result = Gathered<TinyNode>;

/** A request that was gathered. */
interface Waiting {
  readonly node: TinyNode;
  readonly file?: TinyFile | undefined;
  readonly run: () => Result;
}

/** Requests of one {@link GatheringBackend.submit} that are carried out later. */
interface Group {
  readonly all: readonly Waiting[];
  readonly end: () => void;
}

/**
 * A file system that gathers every request that it is offered, and carries them out at {@link
 * submit}.
 */
export class GatheringBackend extends TinyBackend implements Accelerator<TinyNode, TinyFile> {
  /** How many requests each {@link submit} had. */
  readonly submitted: number[] = [];
  /** Reads and writes that were not gathered. */
  single = 0;
  /** How many calls of {@link submit} carried their requests out later. */
  later = 0;
  #waiting: Waiting[] = [];
  #groups: Group[] = [];
  #attended = false;
  /** Gathers look-ups and requests for attributes, too. */
  gathersLookups = false;
  /** Makes every other result a promise. */
  givesPromises = false;
  /** Carries requests out later where that is allowed, as a backend with threads does. */
  runsLater = false;
  /** What is to be carried out later never becomes ready. */
  stuck = false;
  /** What {@link submit} throws after it has got `failsAfter` results. */
  failure: Error | undefined;
  failsAfter = 0;
  /** The name for which {@link gatherLookup} throws EIO. */
  refusedName: string | undefined;

  /**
   * Tells of requests that are carried out later. If nobody polls for them, they end in a later
   * turn of the event loop.
   */
  readonly completions: Completions;

  constructor() {
    super();
    const groups = (): readonly Group[] => this.#groups;
    const isReady = (): boolean => this.#groups.length > 0 && !this.stuck;
    this.completions = {
      get pending() {
        return groups().reduce((sum, { all }) => sum + all.length, 0);
      },
      get ready() {
        return isReady();
      },
      collect: () => {
        if (isReady()) for (const { end } of this.#groups.splice(0)) end();
      },
      attend: () => {
        this.#attended = true;
      },
      rest: () => {
        this.#attended = false;
        this.#wake();
        return isReady();
      },
    };
    accelerate(this, this);
  }

  gatherRead(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): boolean {
    const run = () => super.read(node, file, buffer, offset);
    return this.#waiting.push({ node, file, run }) > 0;
  }

  gatherWrite(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): boolean {
    const run = () => super.write(node, file, buffer, offset);
    return this.#waiting.push({ node, file, run }) > 0;
  }

  gatherLookup(parent: TinyNode, name: string): boolean {
    if (name === this.refusedName) throw FsError.of('EIO');
    const run = () => this.lookup(parent, name);
    return this.gathersLookups && this.#waiting.push({ node: parent, run }) > 0;
  }

  gatherGetattr(node: TinyNode, file: TinyFile | undefined): boolean {
    const run = () => super.getattr(node);
    return this.gathersLookups && this.#waiting.push({ node, file, run }) > 0;
  }

  submit(results: Awaitable<Result>[], later?: () => void): boolean {
    const all = this.#waiting;
    this.#waiting = [];
    this.submitted.push(all.length);
    if (this.failure !== undefined) {
      this.#carryOut(all.slice(0, this.failsAfter), results);
      throw this.failure;
    }
    if (!this.runsLater || later === undefined) {
      this.#carryOut(all, results);
      return false;
    }
    this.later += 1;
    const end = (): void => {
      this.#carryOut(all, results);
      later();
    };
    this.#groups.push({ all, end });
    this.#wake();
    return true;
  }

  override read(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): number {
    this.single += 1;
    return super.read(node, file, buffer, offset);
  }

  override write(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): number {
    this.single += 1;
    return super.write(node, file, buffer, offset);
  }

  override release(node: TinyNode, file: TinyFile): void {
    assert.equal(this.#waiting.length, 0, 'nothing is gathered when a file is closed');
    for (const { all } of this.#groups) assert.ok(all.every((one) => one.file !== file));
    super.release(node, file);
  }

  override forget(node: TinyNode): void {
    assert.equal(this.#waiting.length, 0, 'nothing is gathered when a node is forgotten');
    for (const { all } of this.#groups) assert.ok(all.every((one) => one.node !== node));
    super.forget(node);
  }

  #carryOut(all: readonly Waiting[], results: Awaitable<Result>[]): void {
    for (const [i, { run }] of all.entries()) {
      try {
        const result = run();
        results[i] = this.givesPromises && i % 2 === 0 ? soon(result) : result;
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        results[i] = this.givesPromises && i % 2 === 0 ? Promise.reject(error) : -error.errno;
      }
    }
  }

  #wake(): void {
    if (this.#groups.length === 0 || this.#attended) return;
    setImmediate(() => {
      if (!this.#attended) this.completions.collect();
    });
  }
}

async function soon(result: Result): Promise<Result> {
  await new Promise((resolve) => setImmediate(resolve));
  return result;
}
