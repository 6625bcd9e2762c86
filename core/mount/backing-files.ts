import { NativeMemory, type OwnedFd } from '../system/index.js';
import { syscall } from '../system/calls/files.js';
import { ENODEV } from '../system/calls/negative-errno.js';

const SYS_IOCTL = process.arch === 'arm64' ? 29 : 16;
/** FUSE_DEV_IOC_BACKING_OPEN and _CLOSE, Linux `include/uapi/linux/fuse.h`, from 6.9 on. */
const BACKING_OPEN = 0x4010_e501;
const BACKING_CLOSE = 0x4004_e502;

/**
 * Files of this host that the kernel reads and writes itself in the place of files of a mount. They
 * are known to it by numbers. Needs CAP_SYS_ADMIN.
 */
export class BackingFiles {
  readonly #device: OwnedFd;
  /** `struct fuse_backing_map { s32 fd; u32 flags; u64 padding; }`, or a number. */
  readonly #argument = NativeMemory.allocate(16);

  /** @param device an open `/dev/fuse`, of the mount. */
  constructor(device: OwnedFd) {
    this.#device = device;
  }

  /** Tells the kernel of a file. @returns its number, above 0, or minus the errno. */
  open(fd: number): number {
    if (this.#device.value < 0) return ENODEV;
    this.#argument.u8.fill(0);
    this.#argument.i32[0] = fd;
    return syscall(SYS_IOCTL, this.#device.value, BACKING_OPEN, this.#argument.address);
  }

  /** The kernel may forget a file, as soon as nobody has it open. */
  close(id: number): void {
    if (this.#device.value < 0) return;
    this.#argument.i32[0] = id;
    syscall(SYS_IOCTL, this.#device.value, BACKING_CLOSE, this.#argument.address);
  }
}
