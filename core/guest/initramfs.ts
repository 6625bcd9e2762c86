import { nameBytes } from '../backend/index.js';
import { packCpio, type ArchiveEntry } from './cpio.js';
import { INIT } from './init.js';
import type { KernelModule } from './kernel.js';
import type { GuestShare } from './qemu.js';

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const FILE = 0o100644;

/** Where `INIT` mounts the root of commands, if a share is that root. */
const ROOT = '/root-of-commands';

/**
 * Packs the initial root file system: busybox, the modules in load order, and what to mount.
 * @param options.transport functions that stand for those of `INIT` that use virtio-serial ports.
 * @param options.programs files of programs of this host, from {@link packPrograms}.
 */
export function packInitramfs(
  busybox: Uint8Array,
  modules: readonly KernelModule[],
  shares: readonly GuestShare[],
  rootTag: string | undefined,
  rootIsWritten: boolean,
  { transport = '', programs = [] }: { transport?: string; programs?: readonly ArchiveEntry[] } = {},
): Buffer {
  const entries: ArchiveEntry[] = ['bin', 'modules', 'dev'].map((path) => ({ path, mode: DIRECTORY }));
  entries.push({ path: 'bin/busybox', mode: PROGRAM, content: busybox });
  entries.push({ path: 'init', mode: PROGRAM, content: Buffer.from(INIT) });
  entries.push({
    path: 'setup',
    mode: FILE,
    content: Buffer.from(nameBytes(setupScript(shares, rootTag, rootIsWritten))),
  });
  entries.push({ path: 'transport', mode: FILE, content: Buffer.from(transport) });
  entries.push(...programs);
  for (const [index, { name, code }] of modules.entries()) {
    const order = index.toString().padStart(2, '0');
    entries.push({ path: `modules/${order}-${name}.ko`, mode: FILE, content: code });
  }
  return packCpio(entries);
}

/** Calls of `INIT`'s functions, the share that becomes the root first. */
function setupScript(
  shares: readonly GuestShare[],
  rootTag: string | undefined,
  rootIsWritten: boolean,
): string {
  const root = shares.find((share) => share.tag === rootTag);
  const lines: string[] = [];
  if (root !== undefined && rootIsWritten) lines.push(mountLine(root, ROOT, false), `root_is ${ROOT}`);
  else if (root !== undefined) lines.push(mountLine(root, '/base', true), 'root_on /base');
  for (const share of shares) {
    if (share === root) continue;
    lines.push(
      mountLine(share, (root === undefined ? '' : ROOT) + share.mountPoint, share.readOnly ?? false),
    );
  }
  return `${lines.join('\n')}\n`;
}

function mountLine(share: GuestShare, mountPoint: string, readOnly: boolean): string {
  return `share ${quote(share.tag)} ${quote(mountPoint)} ${readOnly ? 'ro' : 'rw'}`;
}

/** Quotes a word for the shell. */
export function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
