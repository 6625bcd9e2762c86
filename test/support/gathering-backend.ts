import assert from 'node:assert/strict';
import { FsError, type Awaitable, type GuestBuffer } from '../../core/backend/index.js';
import { TinyBackend, type TinyFile, type TinyNode } from './tiny-backend.js';

/** A file system that puts every read and write aside that it is offered, and carries them out when it is told to. */
export class GatheringBackend extends TinyBackend {
  /** How many were carried out by each {@link submit}, and how many were not put aside. */
  readonly submitted: number[] = [];
  single = 0;
  readonly #waiting: (() => number)[] = [];
  /** Makes every other result a promise. */
  late = false;
  /** Fails instead. */
  failure: Error | undefined;

  gatherRead(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): boolean {
    return this.#waiting.push(() => super.read(node, file, buffer, offset)) > 0;
  }

  gatherWrite(node: TinyNode, file: TinyFile, buffer: GuestBuffer, offset: number): boolean {
    return this.#waiting.push(() => super.write(node, file, buffer, offset)) > 0;
  }

  submit(results: Awaitable<number>[]): void {
    const all = this.#waiting.splice(0);
    this.submitted.push(all.length);
    if (this.failure !== undefined) throw this.failure;
    for (const [i, one] of all.entries()) {
      try {
        const count = one();
        results[i] = this.late && i % 2 === 0 ? later(count) : count;
      } catch (error) {
        if (!(error instanceof FsError)) throw error;
        results[i] = this.late && i % 2 === 0 ? Promise.reject(error) : -error.errno;
      }
    }
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
    assert.equal(this.#waiting.length, 0, 'nothing is put aside when a file is closed');
    super.release(node, file);
  }

  override forget(node: TinyNode): void {
    assert.equal(this.#waiting.length, 0, 'nothing is put aside when a node is forgotten');
    super.forget(node);
  }
}

async function later(count: number): Promise<number> {
  await new Promise((resolve) => setImmediate(resolve));
  return count;
}
