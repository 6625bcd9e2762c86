import { accessSync, constants, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { UsageError } from '../backend/index.js';

/** The path of a program: as given, or the first of that name in PATH. */
export function findProgram(name: string): string | undefined {
  const folders = name.includes('/') ? [''] : (process.env['PATH'] ?? '').split(delimiter);
  return folders.map((folder) => join(folder, name)).find((path) => isExecutable(path));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The path of QEMU. @throws UsageError if there is none; the message says how to get it. */
export function findQemu(name = 'qemu-system-x86_64'): string {
  const path = findProgram(name);
  if (path !== undefined) return path;
  throw new UsageError(
    `${name} not found: apt-get install --no-install-recommends qemu-system-x86, or --qemu PATH`,
  );
}

/**
 * Reads busybox, the guest's only program. It must be linked statically.
 * @throws UsageError if there is none; the message says how to get it.
 */
export function readBusybox(): Uint8Array {
  const path = findProgram('busybox') ?? findProgram('/bin/busybox');
  const content = path === undefined ? undefined : readFileSync(path);
  if (content !== undefined && isStatic(content)) return content;
  const problem = path === undefined ? 'busybox not found' : `${path} needs shared libraries`;
  throw new UsageError(`${problem}: apt-get install busybox-static`);
}

/** Whether a 64-bit ELF program is static: it has no interpreter (PT_INTERP, `elf(5)`). */
function isStatic(elf: Buffer): boolean {
  const PT_INTERP = 3;
  if (elf.length < 64 || elf.toString('latin1', 0, 4) !== '\x7fELF') return false;
  const table = Number(elf.readBigUInt64LE(32));
  const size = elf.readUInt16LE(54);
  const count = elf.readUInt16LE(56);
  for (let i = 0; i < count; i++) {
    const at = table + i * size;
    if (at + 4 > elf.length || elf.readUInt32LE(at) === PT_INTERP) return false;
  }
  return true;
}
