import { mkdir, readdir } from 'node:fs/promises';

/** Most paths whose loss nobody has heard of yet. */
const UNTOLD_MAX = 10_000;

/** Changes that lost a race: the journals that were kept aside, and who has not heard of it. */
export class Losses {
  /** `conflicts` in the cache folder. */
  readonly folder: string;
  readonly #untold = new Set<string>();
  #asides = 0;
  #counting: Promise<void> | undefined;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** Creates the folder and counts what earlier processes left there. */
  async start(): Promise<void> {
    await mkdir(this.folder, { recursive: true, mode: 0o700 });
    await this.count();
  }

  /** Journals in the folder at the last count. `s3 export --remove` takes them away. */
  get asides(): number {
    return this.#asides;
  }

  /** Counts the journals again. */
  count(): Promise<void> {
    this.#counting ??= this.#count().finally(() => (this.#counting = undefined));
    return this.#counting;
  }

  async #count(): Promise<void> {
    const names = await readdir(this.folder).catch((): string[] => []);
    this.#asides = names.filter((name) => name.endsWith('.log')).length;
  }

  /** @param isTold whether somebody waits for the upload, and gets its error. */
  add(path: string, isTold: boolean): void {
    this.#asides += 1;
    if (!isTold && this.#untold.size < UNTOLD_MAX) this.#untold.add(path);
  }

  /** Whether a loss at a path has to be told now. It is told once. */
  take(path: string): boolean {
    return this.#untold.size > 0 && this.#untold.delete(path);
  }
}
