import { readFileSync } from 'node:fs';
import { heapLimit, memoryLimit } from '../../backend/limits.js';
import type { Logger } from '../../backend/index.js';
import type { Sandbox } from '../../sandbox/index.js';

/** What is held of a sandbox. */
interface Guarded {
  readonly box: Sandbox;
  /** What it shared with another one when it was started. */
  readonly inherited: ReturnType<Sandbox['usage']>;
}

const INTERVAL_MS = 500;

/** Bytes of heap that a changed file may take, as memfs reckons with. */
const HEAP_BYTES_PER_FILE = 2048;

/** What files of all sandboxes may take of the heap. */
const MOST_FILES = Math.floor((heapLimit * 5) / 8 / HEAP_BYTES_PER_FILE);

/** Bytes of memory that this host, or what confines this process, must have left. */
const LEAST_LEFT_BYTES = Math.floor(memoryLimit() / 32);

/** One that has fewer bytes is not what the memory went into. */
const LARGE_BYTES = 64 << 20;

/**
 * Ends the greediest of several sandboxes before they exhaust the memory of the process that holds
 * them, which would end them all: each keeps to its own limits, but not all of these together.
 */
export class MemoryGuard implements Disposable {
  readonly #sandboxes: ReadonlyMap<string, Guarded>;
  readonly #log: Logger;
  readonly #timer: NodeJS.Timeout;
  readonly #ending = new Set<string>();

  constructor(sandboxes: ReadonlyMap<string, Guarded>, log: Logger) {
    this.#sandboxes = sandboxes;
    this.#log = log;
    this.#timer = setInterval(() => this.#check(), INTERVAL_MS).unref();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #check(): void {
    const found = greediest(
      Array.from(this.#sandboxes, ([name, { box, inherited }]) => {
        const { bytes, files } = box.usage();
        return { name, bytes: bytes - inherited.bytes, files: files - inherited.files };
      }),
      { mostFiles: MOST_FILES, isMemoryLow: availableBytes() < LEAST_LEFT_BYTES },
    );
    if (found === undefined || this.#ending.has(found.name)) return;
    this.#ending.add(found.name);
    this.#log.error(found, 'memory is short: the sandbox that has the most of it is ended');
    void this.#sandboxes
      .get(found.name)
      ?.box.stop()
      .finally(() => this.#ending.delete(found.name));
  }
}

/** A sandbox's share of the memory. */
export interface Share {
  readonly name: string;
  readonly bytes: number;
  readonly files: number;
}

/** Which sandbox is to be ended; undefined if there is enough for all. */
export function greediest(
  shares: readonly Share[],
  { mostFiles, isMemoryLow }: { readonly mostFiles: number; readonly isMemoryLow: boolean },
): Share | undefined {
  const most = (by: 'bytes' | 'files'): Share | undefined =>
    shares.reduce<Share | undefined>((a, b) => (a === undefined || b[by] > a[by] ? b : a), undefined);
  const total = shares.reduce((sum, { files }) => sum + files, 0);
  if (total > mostFiles) return most('files');
  const largest = isMemoryLow ? most('bytes') : undefined;
  return largest !== undefined && largest.bytes >= LARGE_BYTES ? largest : undefined;
}

/** Memory that can be had without swapping: of the host, or of what confines this process. */
function availableBytes(): number {
  const { availableMemory } = process as { availableMemory?: () => number };
  if (availableMemory !== undefined) return availableMemory.call(process);
  const kibibytes = /^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'latin1'))?.[1];
  return kibibytes === undefined ? Infinity : Number(kibibytes) * 1024;
}
