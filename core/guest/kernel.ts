import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { UsageError } from '../backend/index.js';

/** A bootable kernel and the folder of its modules. */
export interface Kernel {
  /** The image (bzImage). */
  readonly image: string;
  /** Its release, as `uname -r` prints it. */
  readonly release: string;
  /**
   * Folder such as `/lib/modules/6.1.0-9-cloud-amd64`. Undefined if all drivers are built in.
   */
  readonly modules: string | undefined;
}

/** A kernel module's name and object code. */
export interface KernelModule {
  readonly name: string;
  readonly code: Uint8Array;
}

/**
 * The modules that a guest needs, each after those that it depends on. If the kernel has no file of
 * a module, the driver is taken to be built in; if it is not, the guest reports that at boot.
 */
const MODULES = [
  'drivers/virtio/virtio_ring',
  'drivers/virtio/virtio',
  ...['virtio_pci_modern_dev', 'virtio_pci_legacy_dev', 'virtio_pci', 'virtio_mmio'].map(
    (name) => `drivers/virtio/${name}`,
  ),
  'drivers/char/virtio_console',
  'fs/fuse/fuse',
  'fs/fuse/virtiofs',
  'fs/overlayfs/overlay',
];

/** The roots below which `boot/vmlinuz-*` and `lib/modules/*` are searched, best first. */
function roots(): string[] {
  const cache = process.env['VIRTIOFS_KIT_GUEST'];
  return [...(cache === undefined ? [] : [resolve(cache)]), join(packageRoot(), '.cache', 'guest'), '/'];
}

/** The folder of this package's package.json. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json')) && folder !== '/') folder = dirname(folder);
  return folder;
}

/**
 * The kernel to boot: the given image, or the newest one that has virtio-fs.
 * @throws UsageError if there is none; the message says how to get one.
 */
export function findKernel(image?: string): Kernel {
  if (image !== undefined) {
    const release = kernelRelease(image);
    return { image, release, modules: modulesOf(release, dirname(dirname(resolve(image)))) };
  }
  const found = roots().flatMap((root) => kernelsBelow(root));
  const best = found.sort((a, b) => b.release.localeCompare(a.release, 'en', { numeric: true }))[0];
  if (best !== undefined) return best;
  throw new UsageError(
    'no Linux kernel with virtio-fs found in /boot and /lib/modules: ' +
      'apt-get install linux-image-cloud-amd64, or --kernel IMAGE',
  );
}

function kernelsBelow(root: string): Kernel[] {
  const boot = join(root, 'boot');
  if (!existsSync(boot)) return [];
  return readdirSync(boot).flatMap((name) => {
    const release = /^vmlinuz-(.+)$/.exec(name)?.[1];
    const modules = release === undefined ? undefined : modulesOf(release, root);
    if (release === undefined || modules === undefined) return [];
    if (moduleFile(modules, 'fs/fuse/virtiofs') === undefined) return [];
    const image = join(boot, name);
    return isReadable(image) ? [{ image, release, modules }] : [];
  });
}

/** Whether a file is readable. On some distributions only root may read kernel images. */
function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function modulesOf(release: string, beside: string): string | undefined {
  return [beside, ...roots()]
    .map((root) => join(root, 'lib', 'modules', release))
    .find((path) => existsSync(path));
}

/**
 * Reads the release from a bzImage's header (Linux `Documentation/arch/x86/boot.rst`, field
 * kernel_version).
 */
function kernelRelease(image: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(image);
  } catch (error) {
    throw new UsageError(`--kernel ${image}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (bytes.length < 0x1000 || bytes.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    throw new UsageError(`--kernel ${image}: not an x86 Linux kernel image (bzImage)`);
  }
  const at = 0x200 + bytes.readUInt16LE(0x20e);
  return bytes.toString('latin1', at, at + 128).split(/[ \0]/)[0]!;
}

function moduleFile(modules: string, name: string): string | undefined {
  const path = join(modules, 'kernel', `${name}.ko`);
  return ['', '.xz', '.zst', '.gz'].map((suffix) => path + suffix).find((file) => existsSync(file));
}

/** Whether a kernel has a driver, as a module or built in. */
export function hasDriver({ modules }: Kernel, name: string): boolean {
  if (modules === undefined || moduleFile(modules, name) !== undefined) return true;
  const list = join(modules, 'modules.builtin');
  return existsSync(list) && readFileSync(list, 'utf8').includes(`${name}.ko`);
}

/** Reads the modules that a guest loads, in order, decompressed. */
export function readModules(kernel: Kernel): KernelModule[] {
  const { modules } = kernel;
  if (modules === undefined) return [];
  return MODULES.flatMap((name) => {
    const file = moduleFile(modules, name);
    return file === undefined
      ? []
      : [{ name: name.slice(name.lastIndexOf('/') + 1), code: readModule(file) }];
  });
}

function readModule(file: string): Uint8Array {
  if (file.endsWith('.ko')) return readFileSync(file);
  if (file.endsWith('.gz')) return gunzipSync(readFileSync(file));
  const [program, install] = file.endsWith('.xz') ? ['xz', 'xz-utils'] : ['zstd', 'zstd'];
  const result = spawnSync(program!, ['-dc', file], { maxBuffer: 64 * 1024 * 1024 });
  if (result.error !== undefined || result.status !== 0) {
    throw new UsageError(`${file}: cannot be decompressed by ${program}: apt-get install ${install}`);
  }
  return result.stdout;
}
