import type { Export } from '../../state/index.js';
import type { Backend, CachePolicy } from '../../backend/index.js';
import { InitFlag, InitFlag2, KERNEL_MINOR_VERSION } from '../wire/abi.js';
import { MAX_PAGES, MAX_WRITE_BYTES } from '../wire/transfer.js';

/** What INIT negotiated. Plain data: it is part of a saved session. */
export interface Negotiated {
  /** The smaller of the two minor versions. */
  readonly minor: number;
  /** Flags that both sides use: {@link InitFlag} and {@link InitFlag2}. */
  readonly flags: number;
  readonly flags2: number;
  /** In bytes. */
  readonly maxReadahead: number;
  /** In bytes. */
  readonly maxWrite: number;
  /** Most pages of data in one request. */
  readonly maxPages: number;
}

/** What the guest's INIT offers. */
export interface Offer {
  readonly minor: number;
  readonly flags: number;
  readonly flags2: number;
  readonly maxReadahead: number;
}

/** What decides over flags. Where `localLocks` is set, lock flags are not agreed to. */
export type NegotiatingExport = Pick<Export, 'backend' | 'cache' | 'localLocks' | 'findsByHandle'>;

/** The pages that Linux sends without FUSE_MAX_PAGES: FUSE_DEFAULT_MAX_PAGES_PER_REQ. */
const DEFAULT_PAGES = 32;
const PAGE_BYTES = 4096;
const LOCKS = InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS;

/**
 * Negotiates the protocol: agrees to what the guest offers and this backend can do. A flag that
 * needs a method is agreed to only if the backend has that method.
 * @param kernelFiles whether the kernel may read and write files of the host itself.
 */
export function negotiate(
  offer: Offer,
  { backend, cache, localLocks, findsByHandle }: NegotiatingExport,
  kernelFiles = false,
): Negotiated {
  const { flags2 } = offer;
  const withoutAcls = missingForAcls(offer.flags).length > 0 ? ~InitFlag.POSIX_ACL : -1;
  // The kernel refuses it together with write-back caching.
  const passthrough = kernelFiles && !writeback(backend, cache) ? InitFlag2.PASSTHROUGH : 0;
  const maxPages = (offer.flags & InitFlag.MAX_PAGES) === 0 ? DEFAULT_PAGES : MAX_PAGES;
  return {
    minor: Math.min(offer.minor, KERNEL_MINOR_VERSION),
    flags:
      offer.flags &
      (supportedFlags(backend, cache) | (findsByHandle ? InitFlag.EXPORT_SUPPORT : 0)) &
      (localLocks ? ~LOCKS : -1) &
      withoutAcls,
    flags2: (offer.flags & InitFlag.INIT_EXT) === 0 ? 0 : flags2 & (supportedFlags2(backend) | passthrough),
    maxReadahead: offer.maxReadahead,
    maxWrite: Math.min(MAX_WRITE_BYTES, maxPages * PAGE_BYTES),
    maxPages,
  };
}

/** What a guest must know, so that ACLs hold for it: the umask and set-group-id are among it. */
const FOR_ACLS = {
  FUSE_POSIX_ACL: InitFlag.POSIX_ACL,
  FUSE_DONT_MASK: InitFlag.DONT_MASK,
  FUSE_SETXATTR_EXT: InitFlag.SETXATTR_EXT,
} as const;

function missingForAcls(flags: number): string[] {
  return Object.entries(FOR_ACLS).flatMap(([name, flag]) => ((flags & flag) === 0 ? [name] : []));
}

/** Names of the flags that the backend requires and the guest does not offer. */
export function missingFlags({ flags, flags2 }: Offer, { semantics = {} }: Backend): string[] {
  const missing = {
    posixAcl: missingForAcls(flags),
    securityContext: (flags2 & InitFlag2.SECURITY_CTX) === 0 ? ['FUSE_SECURITY_CTX'] : [],
  };
  return (semantics.required ?? []).flatMap((key) => (semantics[key] === true ? missing[key] : []));
}

/**
 * Whether FUSE_WRITEBACK_CACHE may be used. The guest then sets sizes and times by SETATTR, so the
 * backend needs `setattr`.
 */
function writeback(backend: Backend, cache: CachePolicy): boolean {
  return (
    cache.writeback && cache.data !== 'never' && backend.write !== undefined && backend.setattr !== undefined
  );
}

function supportedFlags(backend: Backend, cache: CachePolicy): number {
  const { semantics = {} } = backend;
  let flags =
    InitFlag.ASYNC_READ |
    InitFlag.POSIX_LOCKS |
    InitFlag.BIG_WRITES |
    InitFlag.FLOCK_LOCKS |
    InitFlag.ASYNC_DIO |
    InitFlag.PARALLEL_DIROPS |
    InitFlag.MAX_PAGES |
    InitFlag.INIT_EXT;
  // Without this flag the guest truncates by SETATTR.
  if (backend.open !== undefined) flags |= InitFlag.ATOMIC_O_TRUNC;
  if (backend.readdir !== undefined) flags |= InitFlag.DO_READDIRPLUS | InitFlag.READDIRPLUS_AUTO;
  if (backend.setxattr !== undefined) flags |= InitFlag.SETXATTR_EXT;
  if (backend.readlink !== undefined && cache.data !== 'never') flags |= InitFlag.CACHE_SYMLINKS;
  if (writeback(backend, cache)) flags |= InitFlag.WRITEBACK_CACHE;
  else if (cache.data === 'auto') flags |= InitFlag.AUTO_INVAL_DATA;
  if (semantics.posixAcl === true) flags |= InitFlag.POSIX_ACL | InitFlag.DONT_MASK;
  if (semantics.killPriv === true) flags |= InitFlag.HANDLE_KILLPRIV_V2;
  if (semantics.submounts === true) flags |= InitFlag.SUBMOUNTS;
  return flags;
}

function supportedFlags2(backend: Backend): number {
  let flags2 = InitFlag2.CREATE_SUPP_GROUP | InitFlag2.DIRECT_IO_ALLOW_MMAP;
  if (backend.semantics?.securityContext === true) flags2 |= InitFlag2.SECURITY_CTX;
  return flags2;
}
