import { createHash } from 'node:crypto';
import { pattern } from '../support.js';

/** What a schedule does to the files of one directory, one step after the other. */
export type Step =
  | { readonly kind: 'create' | 'unlink' | 'sync'; readonly name: string }
  | {
      readonly kind: 'write';
      readonly name: string;
      readonly at: number;
      readonly length: number;
      readonly seed: number;
    }
  | { readonly kind: 'truncate'; readonly name: string; readonly size: number }
  | { readonly kind: 'rename'; readonly name: string; readonly target: string };

/** What came of a step. */
export interface Ending {
  /** Why it failed; undefined if it did not. */
  readonly error?: string | undefined;
}

/** Files and their content: one possible state of the bucket. */
export type World = ReadonlyMap<string, Buffer>;

function withFile(world: World, name: string, content: Buffer | undefined): World {
  const next = new Map(world);
  if (content === undefined) next.delete(name);
  else next.set(name, content);
  return next;
}

function overwritten(old: Buffer | undefined, at: number, bytes: Buffer): Buffer {
  const next = Buffer.alloc(Math.max(old?.length ?? 0, at + bytes.length));
  old?.copy(next);
  bytes.copy(next, at);
  return next;
}

function resized(old: Buffer | undefined, size: number): Buffer {
  const next = Buffer.alloc(size);
  old?.copy(next);
  return next;
}

/** What a world may be after a step. The first is what it is where the step has succeeded. */
function outcomes(world: World, step: Step): World[] {
  const { name } = step;
  const old = world.get(name);
  switch (step.kind) {
    case 'create':
      return [old === undefined ? withFile(world, name, Buffer.alloc(0)) : world];
    case 'unlink':
      return [withFile(world, name, undefined)];
    case 'sync':
      return [world];
    case 'write':
      return [withFile(world, name, overwritten(old, step.at, pattern(step.length, step.seed)))];
    case 'truncate':
      return [withFile(world, name, resized(old, step.size))];
    case 'rename': {
      if (old === undefined || step.target === name) return [world];
      // A rename that failed may leave the second state. Its caller was told.
      return [
        withFile(withFile(world, name, undefined), step.target, old),
        withFile(world, step.target, old),
      ];
    }
  }
}

/** Content does not change once it is in a world. */
const digests = new WeakMap<Uint8Array, string>();

/** A short name of content that does not change. */
export function digestOf(content: Uint8Array): string {
  let digest = digests.get(content);
  if (digest === undefined) {
    digest = `${content.length} ${createHash('sha1').update(content).digest('hex').slice(0, 8)}`;
    digests.set(content, digest);
  }
  return digest;
}

function describe(world: World): string {
  const files = [...world].sort(([a], [b]) => (a < b ? -1 : 1));
  return files.map(([name, bytes]) => `${name}: ${digestOf(bytes)}`).join(', ');
}

function unique(worlds: readonly World[]): World[] {
  return [...new Map(worlds.map((world) => [describe(world), world])).values()];
}

/**
 * The states in which a directory may be. Only what was acknowledged must be there; what was under
 * way when the process ended, or has failed, may have happened or not.
 */
export class Worlds {
  readonly trace: string[] = [];
  #possible: World[] = [new Map()];
  #step: Step | undefined;

  begin(step: Step): void {
    this.#step = step;
    this.trace.push(JSON.stringify(step));
  }

  end({ error }: Ending): void {
    const step = this.#step!;
    this.#step = undefined;
    if (error === undefined) {
      this.#possible = unique(this.#possible.flatMap((world) => outcomes(world, step).slice(0, 1)));
      return;
    }
    this.trace.push(`  ${error}`);
    this.#mayHaveHappened(step);
  }

  /** The process ends, perhaps in the midst of a step. */
  crash(): void {
    this.trace.push(this.#step === undefined ? 'killed' : 'killed in this step');
    if (this.#step !== undefined) this.#mayHaveHappened(this.#step);
    this.#step = undefined;
  }

  #mayHaveHappened(step: Step): void {
    this.#possible = unique([...this.#possible, ...this.#possible.flatMap((world) => outcomes(world, step))]);
  }

  /** @returns what is wrong with content that was read; undefined: nothing. */
  read(name: string, digest: string | undefined): string | undefined {
    this.trace.push(`read ${name}: ${digest ?? 'nothing'}`);
    const isPossible = this.#possible.some((world) => {
      const content = world.get(name);
      return content === undefined ? digest === undefined : digestOf(content) === digest;
    });
    return isPossible ? undefined : `what was read of ${name} is in none of\n${this.#text}`;
  }

  /** Takes what was found for what is there. @returns what is wrong with it; undefined: nothing. */
  found(world: World): string | undefined {
    const shown = describe(world);
    const isPossible = this.#possible.some((possible) => describe(possible) === shown);
    const wrong = isPossible ? undefined : `found ${shown}, which is none of\n${this.#text}`;
    this.#possible = [world];
    return wrong;
  }

  get #text(): string {
    return this.#possible.map((world) => `  ${describe(world)}`).join('\n');
  }
}
