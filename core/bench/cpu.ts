import { readdirSync, readFileSync } from 'node:fs';
import { libc, NativeMemory, result } from '../system/index.js';

const clockGettime = libc<(clock: number, time: number) => number>('clock_gettime', 'int', [
  'int',
  'uintptr_t',
]);

const scratch = NativeMemory.allocate(16);

/**
 * A daemon's processes: one process and all its descendants. Their CPU time includes threads that
 * have ended. It is exact to the nanosecond, since it comes from the kernel's clock of a process
 * (`clock_getcpuclockid(3)`): what `/proc/PID/task/TID/schedstat` shows, summed over the threads.
 */
export class ProcessTree {
  readonly #root: number;

  /** @param pid a process that runs. @throws RangeError if there is none. */
  constructor(pid: number) {
    this.#root = pid;
    if (Number.isNaN(cpuSecondsOf(pid))) throw new RangeError(`process ${pid}: there is none`);
  }

  /** CPU time used so far. */
  cpuSeconds(): number {
    let seconds = 0;
    for (const pid of this.#pids()) seconds += cpuSecondsOf(pid) || 0;
    return seconds;
  }

  /** Resident memory. */
  residentBytes(): number {
    let bytes = 0;
    for (const pid of this.#pids()) {
      const status = readText(`/proc/${pid}/status`);
      bytes += 1024 * Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1] ?? 0);
    }
    return bytes;
  }

  /**
   * The process, and its descendants at this moment. A daemon that sandboxes itself serves from a
   * child.
   */
  #pids(): number[] {
    const pids = [this.#root];
    for (const pid of pids) {
      for (const task of listing(`/proc/${pid}/task`)) {
        pids.push(...readText(`/proc/${pid}/task/${task}/children`).split(' ').filter(Boolean).map(Number));
      }
    }
    return pids;
  }
}

/** CPU time of one process; NaN if there is none. */
function cpuSecondsOf(pid: number): number {
  // MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of Linux `include/linux/posix-timers.h`.
  if (result(clockGettime((~pid << 3) | 2, scratch.address)) < 0) return Number.NaN;
  return scratch.u32[0]! + scratch.u32[1]! * 2 ** 32 + scratch.u32[2]! / 1e9;
}

function listing(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
