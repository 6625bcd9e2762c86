import { FileType, FsError, ModeBits } from '../../../core/backend/index.js';

/** Extended attributes that hold POSIX ACLs. */
export const ACCESS_ACL = 'system.posix_acl_access';
export const DEFAULT_ACL = 'system.posix_acl_default';

const EINVAL = FsError.of('EINVAL');

/**
 * Linux `include/uapi/linux/posix_acl_xattr.h`: a version word, then entries of tag, permissions
 * and id.
 */
const VERSION = 2;
const HEADER = 4;
const ENTRY = 8;

/** Linux `include/uapi/linux/posix_acl.h`. */
const Tag = {
  USER_OBJ: 0x01,
  USER: 0x02,
  GROUP_OBJ: 0x04,
  GROUP_CHUNKS: 0x08,
  MASK: 0x10,
  OTHER: 0x20,
} as const;

interface AclEntry {
  readonly tag: number;
  permissions: number;
  readonly id: number;
}

/** A POSIX ACL: entries in the order of the tags, as Linux requires (`posix_acl_valid`). */
export class Acl {
  readonly #entries: readonly AclEntry[];

  private constructor(entries: readonly AclEntry[]) {
    this.#entries = entries;
  }

  /** Decodes an attribute's value. @throws EINVAL if Linux would not accept it. */
  static decode(value: Uint8Array): Acl {
    const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
    if (value.length < HEADER || (value.length - HEADER) % ENTRY !== 0) throw EINVAL;
    if (view.getUint32(0, true) !== VERSION) throw EINVAL;
    const entries: AclEntry[] = [];
    for (let at = HEADER; at < value.length; at += ENTRY) {
      entries.push({
        tag: view.getUint16(at, true),
        permissions: view.getUint16(at + 2, true),
        id: view.getUint32(at + 4, true),
      });
    }
    const acl = new Acl(entries);
    if (!acl.#isValid()) throw EINVAL;
    return acl;
  }

  encode(): Uint8Array {
    const value = new Uint8Array(HEADER + this.#entries.length * ENTRY);
    const view = new DataView(value.buffer);
    view.setUint32(0, VERSION, true);
    this.#entries.forEach(({ tag, permissions, id }, i) => {
      view.setUint16(HEADER + i * ENTRY, tag, true);
      view.setUint16(HEADER + i * ENTRY + 2, permissions, true);
      view.setUint32(HEADER + i * ENTRY + 4, id, true);
    });
    return value;
  }

  /** Whether the permission bits say the same: the ACL names only owner, group and others. */
  get isMinimal(): boolean {
    return this.#entries.length === 3;
  }

  /** `mode` with the permission bits that this ACL gives (`posix_acl_equiv_mode`). */
  applyTo(mode: number): number {
    const user = this.#permissions(Tag.USER_OBJ);
    const group = this.#permissions(this.#groupTag());
    return (mode & ~0o777) | (user << 6) | (group << 3) | this.#permissions(Tag.OTHER);
  }

  /** Makes the ACL agree with changed permission bits (`posix_acl_chmod`). */
  setMode(mode: number): void {
    const groupTag = this.#groupTag();
    for (const entry of this.#entries) {
      if (entry.tag === Tag.USER_OBJ) entry.permissions = (mode >> 6) & 7;
      else if (entry.tag === groupTag) entry.permissions = (mode >> 3) & 7;
      else if (entry.tag === Tag.OTHER) entry.permissions = mode & 7;
    }
  }

  /**
   * Turns a directory's default ACL into the ACL of a new node with this mode: each loses the
   * permissions that the other lacks (`posix_acl_create_masq`).
   * @returns the node's mode.
   */
  create(mode: number): number {
    const groupTag = this.#groupTag();
    for (const entry of this.#entries) {
      if (entry.tag === Tag.USER_OBJ) entry.permissions &= (mode >> 6) & 7;
      else if (entry.tag === groupTag) entry.permissions &= (mode >> 3) & 7;
      else if (entry.tag === Tag.OTHER) entry.permissions &= mode & 7;
    }
    return this.applyTo(mode);
  }

  #groupTag(): number {
    return this.#entries.some((entry) => entry.tag === Tag.MASK) ? Tag.MASK : Tag.GROUP_OBJ;
  }

  #permissions(tag: number): number {
    return this.#entries.find((entry) => entry.tag === tag)?.permissions ?? 0;
  }

  #isValid(): boolean {
    const count = new Map<number, number>();
    let last = 0;
    for (const { tag, permissions } of this.#entries) {
      if (permissions > 7 || tag < last || !Object.values<number>(Tag).includes(tag)) return false;
      last = tag;
      count.set(tag, (count.get(tag) ?? 0) + 1);
    }
    const named = (count.get(Tag.USER) ?? 0) + (count.get(Tag.GROUP_CHUNKS) ?? 0);
    const masks = count.get(Tag.MASK) ?? 0;
    return (
      count.get(Tag.USER_OBJ) === 1 &&
      count.get(Tag.GROUP_OBJ) === 1 &&
      count.get(Tag.OTHER) === 1 &&
      (masks === 1 || (masks === 0 && named === 0))
    );
  }
}

/** Mode and ACLs of a new node. */
export interface Inherited {
  readonly mode: number;
  readonly access?: Uint8Array;
  readonly default?: Uint8Array;
}

/**
 * Mode and ACLs of a node that is created in a directory with this default ACL
 * (`posix_acl_create`).
 */
export function inherit(parentDefault: Uint8Array, mode: number): Inherited {
  const acl = Acl.decode(parentDefault);
  const effective = acl.create(mode);
  return {
    mode: effective,
    ...(acl.isMinimal ? {} : { access: acl.encode() }),
    ...((mode & FileType.MASK) === FileType.DIRECTORY ? { default: parentDefault } : {}),
  };
}

/** Clears the set-user-id bit, and the set-group-id bit of a group-executable file. */
export function withoutSetId(mode: number): number {
  const { SETUID, SETGID } = ModeBits;
  return mode & ((mode & 0o010) !== 0 ? ~(SETUID | SETGID) : ~SETUID);
}
