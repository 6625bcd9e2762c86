import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, lstatSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { lockExclusively } from '../system/calls/files.js';
import type { Fd } from '../system/index.js';

const PREFIX = 'virtiofs-kit-guest-';

/**
 * A folder for the sockets and files of a guest, which only this user can enter. Where its process
 * was killed, the next one that makes such a folder removes it: a lock on the folder, which the
 * kernel releases with the process, tells the two apart.
 */
export class TemporaryFolder implements Disposable {
  readonly path: string;
  readonly #fd: number;

  /** @throws what node:fs throws. */
  constructor() {
    const folder = tmpdir();
    sweep(folder);
    for (;;) {
      const path = mkdtempSync(join(folder, PREFIX));
      const fd = openSync(path, 'r');
      // Another process that sweeps may have come between.
      if (lockExclusively(fd as Fd) === 0 && existsSync(path)) {
        this.path = path;
        this.#fd = fd;
        return;
      }
      closeSync(fd);
    }
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
    closeSync(this.#fd);
  }
}

/** Removes what killed processes of this user have left. */
function sweep(folder: string): void {
  for (const name of readdirSync(folder)) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(folder, name);
    try {
      if (lstatSync(path).uid !== process.getuid?.()) continue;
      const fd = openSync(path, 'r');
      try {
        if (lockExclusively(fd as Fd) === 0) rmSync(path, { recursive: true, force: true });
      } finally {
        closeSync(fd);
      }
    } catch {
      // Another process has removed it, or it is none of ours.
    }
  }
}
