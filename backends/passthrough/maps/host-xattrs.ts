import { FsError, type SecurityContext } from '../../../core/backend/index.js';
import { chmod } from '../../../core/system/calls/files.js';
import { EACCES } from '../../../core/system/calls/negative-errno.js';
import { removexattr, setxattr } from '../../../core/system/calls/xattrs.js';
import type { Fd } from '../../../core/system/index.js';
import { at, bytes, offset, putDescriptorPath, putText } from '../calls/call-memory.js';
import { statDescriptor, statMode } from '../calls/stat.js';
import type { Options } from '../options.js';
import { XattrMap } from './xattr-map.js';

const ACL_PREFIX = 'system.posix_acl_';
/** Attributes that the kernel gives to CAP_SYS_ADMIN alone, xattr(7). */
const TRUSTED_PREFIX = 'trusted.';
const CAPABILITY = 'security.capability';

/** Which extended attributes of the host a guest may have, and under which names. */
export class HostXattrs {
  /** The names' translation, if the options have one. */
  readonly map: XattrMap | undefined;
  readonly #options: Options;
  readonly #translates: boolean;
  readonly #refusesCapabilities: boolean;
  readonly #mappedCapability: string | undefined;

  /**
   * @param translates whether owners are translated.
   * @param refusesPrivileged whether guests are not to make what is privileged on the host.
   * @throws UsageError for a mistake in the map.
   */
  constructor(options: Options, translates: boolean, refusesPrivileged: boolean) {
    this.#options = options;
    this.map = options.xattrmap === undefined ? undefined : new XattrMap(options.xattrmap);
    this.#translates = translates;
    this.#refusesCapabilities = refusesPrivileged;
    this.#mappedCapability = mappedCapability(this.map);
  }

  /**
   * Name on the host of an extended attribute that a guest sets or removes.
   * @throws FsError EPERM, EOPNOTSUPP for one that it may not have.
   */
  toChange(name: string): string {
    const hostName = this.toHost(name);
    if (this.hides(hostName)) throw FsError.of('EPERM');
    return hostName;
  }

  /**
   * Whether a guest has no attribute of this name on the host, although the daemon may have it: the
   * capability is the daemon's, for another of its exports perhaps.
   */
  hides(hostName: string): boolean {
    return this.#options.trustedXattrs === 'refuse' && hostName.startsWith(TRUSTED_PREFIX);
  }

  /**
   * Name on the host of an extended attribute that a guest reads.
   * @throws FsError EPERM, EOPNOTSUPP for one that it may not have.
   */
  toHost(name: string): string {
    // Access control lists name users: see `usesAcls`.
    if (this.#translates && name.startsWith(ACL_PREFIX)) throw FsError.of('EOPNOTSUPP');
    return this.map === undefined ? name : this.map.toHost(name);
  }

  /**
   * Name on the host of an extended attribute that a guest sets.
   * @throws FsError as {@link toHost}; EPERM for a file's capabilities, where guests are not to
   * make what is privileged on the host.
   */
  toSet(name: string): string {
    const hostName = this.toChange(name);
    if (this.#refusesCapabilities && hostName === CAPABILITY) throw FsError.of('EPERM');
    return hostName;
  }

  /**
   * Sets the security context of a new file, before any guest can have seen the file.
   * @returns 0 or minus the errno.
   */
  label(fd: Fd, context: SecurityContext): number {
    let name: string;
    try {
      name = this.toSet(context.name);
    } catch (error) {
      if (error instanceof FsError) return -error.errno;
      throw error;
    }
    bytes.set(context.value, offset.xattr);
    const { length } = context.value;
    const code = setxattr(putDescriptorPath(fd), putText(name), at.xattr, length, 0);
    if (code !== EACCES || statDescriptor(fd) < 0) return code;
    // Mapped to `user.`, it needs leave to write the file, xattr(7): one who has no privilege gives
    // it to himself.
    const mode = statMode() & 0o7777;
    if (chmod(putDescriptorPath(fd), mode | 0o200) < 0) return code;
    const again = setxattr(putDescriptorPath(fd), putText(name), at.xattr, length, 0);
    chmod(putDescriptorPath(fd), mode);
    return again;
  }

  /**
   * Removes a file's capabilities, as every change of content or owner must. The host's kernel does
   * it itself unless an xattr map stores them under another name.
   */
  dropCapabilities(fd: Fd): void {
    if (this.#mappedCapability !== undefined)
      removexattr(putDescriptorPath(fd), putText(this.#mappedCapability));
  }

  /**
   * Whether the xattr map stores file capabilities under another name, so that {@link
   * dropCapabilities} has work to do.
   */
  get hasMappedCapability(): boolean {
    return this.#mappedCapability !== undefined;
  }
}

/**
 * The host's name of the file capabilities attribute if the xattr map gives it another one;
 * otherwise undefined.
 */
function mappedCapability(map: XattrMap | undefined): string | undefined {
  try {
    const name = map?.toHost(CAPABILITY);
    return name === CAPABILITY ? undefined : name;
  } catch {
    return undefined;
  }
}
