import { setTimeout } from 'node:timers/promises';
import type { BackendHost, NodeChange } from '../../../core/backend/index.js';
import { Deadline } from '../client/deadline.js';
import type { Services } from '../service/services.js';
import { type NameLookup, NAMES_MAX } from './name-lookup.js';
import { type Directory, isDirty, pathOf } from './nodes.js';

/** Pages of listings in a second, over all directories. */
const PAGES_PER_SECOND = 10;
/**
 * Most pages of a directory that is watched, of a thousand names each: to compare so many takes the
 * thread a tenth of a second.
 */
const PAGES_MAX = 100;
/** Most names of all of them, so that what guests have looked up elsewhere stays in memory. */
const WATCHED_MAX = NAMES_MAX / 2;
const TOO_LARGE = 'a directory has too many names to be watched: changes there are seen late';

/**
 * Tells what others change in directories that guests know. A bucket tells nothing by itself: each
 * directory is listed every few seconds, and what differs from what was known is a change.
 */
export class Watches {
  readonly #services: Services;
  readonly #nameLookup: NameLookup;
  readonly #directories = new Set<Directory>();
  #host: BackendHost | undefined;
  #isListing = false;
  readonly #end = new AbortController();

  constructor(services: Services, nameLookup: NameLookup) {
    this.#services = services;
    this.#nameLookup = nameLookup;
  }

  mounted(host: BackendHost): void {
    this.#host = host;
  }

  close(): void {
    this.#end.abort();
    this.#directories.clear();
  }

  watch(directory: Directory): (() => void) | undefined {
    if (this.#services.options.watchInterval === 0) return undefined;
    this.#nameLookup.changed ??= (...change) => this.#changed(...change);
    this.#directories.add(directory);
    if (!this.#isListing) void this.#list();
    return () => this.#directories.delete(directory);
  }

  /** Lists the directories, round after round, as long as there are any. */
  async #list(): Promise<void> {
    const { options, log } = this.#services;
    const { signal } = this.#end;
    this.#isListing = true;
    const pause = (milliseconds: number): Promise<unknown> =>
      setTimeout(milliseconds, undefined, { signal }).catch(() => undefined);
    while (this.#directories.size > 0) {
      const next = performance.now() + options.watchInterval * 1000;
      let names = 0;
      for (const directory of this.#directories) {
        // Each page has its time: a listing that were left would go on beside the next.
        const deadline = Deadline.after(Number.POSITIVE_INFINITY, signal);
        const isWhole = await this.#nameLookup
          .list(directory, deadline, PAGES_MAX)
          .catch((error: unknown) => {
            log.debug({ error: String(error) }, 'a directory that is watched cannot be listed');
          });
        const { size } = directory.names;
        if (isWhole === false || names + size > WATCHED_MAX) {
          this.#directories.delete(directory);
          log.warn({ path: pathOf(directory) }, TOO_LARGE);
        } else names += size;
        const pages = isWhole === false ? PAGES_MAX : isWhole ? directory.pages : 1;
        await pause((1000 / PAGES_PER_SECOND) * pages);
        if (signal.aborted) return;
      }
      await pause(Math.max(0, next - performance.now()));
      if (signal.aborted) return;
    }
    this.#isListing = false;
  }

  #changed(directory: Directory, name: string, kind: NodeChange['kind']): void {
    if (!this.#directories.has(directory)) return;
    // What is not uploaded yet takes precedence over what the bucket has.
    const child = directory.children.get(name);
    if (child === undefined || !isDirty(child)) this.#host?.changed?.(directory, { kind, name });
  }
}
