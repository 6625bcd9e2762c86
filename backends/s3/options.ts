import * as z from 'zod';
import { bitsOf, permissionBits } from '../../core/backend/permission-bits.js';
import { CHECKSUMS } from './client/checksums.js';

const units: Readonly<Record<string, number>> = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** A size in bytes: a number, or one with a unit such as `64m`. */
function bytes(least: number, most: number, initial: string): z.ZodType<number> {
  return z
    .union([z.number(), z.string()])
    .default(initial)
    .transform((value, context) => sizeOf(value, least, most, initial, context))
    .meta(SIZE);
}

/** The same, without a value of its own. */
function bytesIfAny(least: number, most: number, example: string): z.ZodType<number | undefined> {
  return z
    .union([z.number(), z.string()])
    .optional()
    .transform((value, context) =>
      value === undefined ? undefined : sizeOf(value, least, most, example, context),
    )
    .meta(SIZE);
}

const SIZE = { placeholder: 'SIZE', unit: 'bytes' };

function sizeOf(
  value: number | string,
  least: number,
  most: number,
  example: string,
  context: z.RefinementCtx,
): number {
  const match = /^(\d+)([kmgt]?)(i?b)?$/i.exec(String(value));
  const result = match === null ? Number.NaN : Number(match[1]) * units[match[2]!.toLowerCase()]!;
  if (result >= least && result <= most) return result;
  context.addIssue({ code: 'custom', message: `must be ${least} to ${most} bytes, such as ${example}` });
  return z.NEVER;
}

function seconds(initial: number, most = 86_400): z.ZodDefault<z.ZodCoercedNumber> {
  return z.coerce.number().min(0).max(most).default(initial);
}

/** Permission bits: a number, or a string in octal. */
function permissions(initial: string): z.ZodType<number> {
  return permissionBits.default(initial).transform(bitsOf).meta({ placeholder: 'MODE' });
}

const id = z.coerce.number().int().min(0).max(0xffff_fffe).default(0);

const MiB = 2 ** 20;
/** Largest object in bytes (Amazon S3 User Guide, "Multipart upload limits"). */
const OBJECT_MAX_BYTES = 5 * 2 ** 40;

export const optionsSchema = z.strictObject({
  bucket: z
    .string()
    .min(1)
    .refine(
      (name) => !/^s3:/i.test(name),
      'is the name alone, without s3://; what lies below it is the prefix',
    )
    .refine(
      (name) => name.startsWith('arn:') || !name.includes('/'),
      'is the name alone; what lies below it is the prefix',
    )
    .describe('bucket to serve, or the ARN of an access point'),
  prefix: z.string().default('').describe('serve what lies below this prefix as the root'),
  endpoint: z.url().optional().describe("URL of an S3 server that is not Amazon's"),
  region: z.string().optional().describe("region; default: the SDK's configuration, else us-east-1"),
  profile: z.string().optional().describe('profile of the AWS configuration files, credentials included'),
  pathStyle: z
    .boolean()
    .default(false)
    .describe(
      'address the bucket in the path, as most other servers need; it is so in any case where the endpoint is localhost or an IP address',
    ),
  anonymous: z.boolean().default(false).describe('sign nothing: for buckets that everybody may read'),
  createBucket: z.boolean().default(false).describe('create the bucket where it is missing'),
  preserve: z
    .enum(['all', 'headers'])
    .default('all')
    .describe(
      'what an object keeps when it is rewritten or moved: all, grants and tags too, by three small requests more; ' +
        'headers: those of its content alone, and grants, tags, class, encryption and lock are those of a new object',
    ),
  readOnly: z.boolean().default(false).describe('refuse every change'),
  refuseDelete: z
    .boolean()
    .default(false)
    .describe('refuse to remove or rename what is in the bucket (EPERM)'),
  refuseOverwrite: z
    .boolean()
    .default(false)
    .describe(
      'refuse to write to, cut or replace a file that has content in the bucket (EPERM); who makes a file may write it until it is closed',
    ),
  cacheDir: z
    .string()
    .optional()
    .describe('folder of the journal and of cached data, for this mount alone; keep it on a disk that lasts')
    .meta({ placeholder: 'DIR' }),

  uid: id.describe('owner of objects without one'),
  gid: id.describe('group of objects without one'),
  fileMode: permissions('0644').describe('permissions of files without any'),
  directoryMode: permissions('0755').describe('permissions of directories without any'),
  attributes: z
    .enum(['posix', 'listing'])
    .default('posix')
    .describe(
      'posix: owner, mode, times and type from metadata, one request per file not seen before; ' +
        'listing: size and time from listings alone, and symbolic links show as files',
    ),

  selinux: z
    .boolean()
    .default(false)
    .describe(
      'keep SELinux labels; without it guests hear that there are none, and need not ask for that of each file',
    ),

  metadataTtl: seconds(5).describe('seconds for which names and attributes are believed'),
  negativeTtl: seconds(2).describe('seconds for which a missing name is believed to be missing'),
  openTtl: seconds(1).describe(
    'seconds for which attributes are believed when a file is opened; 0 asks every time',
  ),

  watchInterval: seconds(10, 3600).describe(
    "seconds between two listings of each directory that guests know, where the export has `watch`: so others' changes are found; 0 for none",
  ),

  durability: z
    .enum(['bucket', 'local'])
    .default('bucket')
    .describe('fsync returns when the bucket has the data, or when the local journal has it'),
  close: z
    .enum(['background', 'wait'])
    .default('background')
    .describe('close returns at once, or when the bucket has the data'),
  conflicts: z
    .enum(['aside', 'refuse', 'last-wins'])
    .default('aside')
    .describe(
      "what becomes of a change when another writer came first: aside: it is kept beside the bucket, and whoever had not heard of it gets EIO at the file's next open; " +
        'refuse: the same, and close waits for the bucket, so that the writer hears it there; ' +
        'last-wins: it replaces what the other wrote, where all of it is known here',
    ),
  sharing: z
    .enum(['close-to-open', 'leases'])
    .default('close-to-open')
    .describe(
      'what mounts of one prefix on several hosts promise each other. close-to-open: what one has uploaded the other sees when it opens the file, and of two changes the later one is refused; ' +
        'leases: locks of guests (fcntl, flock) hold between the hosts too, and who has one sees all that was written under it before',
    ),
  leaseTerm: z.coerce
    .number()
    .min(1)
    .max(3600)
    .default(15)
    .describe(
      'with `sharing: leases`: seconds after which others take the locks of a mount that does not renew its lease',
    ),
  exclusive: z
    .enum(['bucket', 'mount'])
    .default('bucket')
    .describe(
      'who decides which of two creators with O_EXCL comes first. bucket: at the time of the call, by a request more for each such file; ' +
        'mount: this mount among its own, and of two mounts the later upload is refused',
    ),
  removals: z
    .enum(['gathered', 'single'])
    .default('gathered')
    .describe(
      'of many removals, the ones after the first go together, within about a second, and are refused later; or each by a request of its own, before the guest is answered',
    ),
  writebackDelay: seconds(1, 3600).describe(
    'seconds from the last close to the upload; up to five times as many while files go on changing',
  ),
  maxDirtyAge: seconds(30).describe('seconds after which a file that stays open is uploaded too'),
  maxDirty: bytes(16 * MiB, 2 ** 50, '4g').describe('bytes in the journal at which writers wait for uploads'),
  maxFile: bytes(MiB, OBJECT_MAX_BYTES, '5t').describe(
    'size of the largest file that can be written; holes are uploaded as zeros',
  ),

  partSize: bytes(5 * MiB, 2 ** 30, '8m').describe(
    'size of the first thousand parts of a large upload; it doubles with each further thousand',
  ),
  copyLimit: bytes(5 * MiB, 5 * 2 ** 30, '1g').describe('size from which the server copies in parts'),
  acl: z
    .enum([
      'private',
      'public-read',
      'public-read-write',
      'authenticated-read',
      'aws-exec-read',
      'bucket-owner-read',
      'bucket-owner-full-control',
    ])
    .optional()
    .describe('canned ACL of new objects; what is rewritten keeps its grants'),
  storageClass: z.string().optional().describe('storage class of what is written'),
  encryption: z
    .enum(['none', 'sse-s3', 'sse-kms', 'sse-c'])
    .default('none')
    .describe('server-side encryption'),
  kmsKey: z.string().optional().describe('key id for sse-kms'),
  customerKeyFile: z
    .string()
    .optional()
    .describe('file with the 32 bytes of the key for sse-c')
    .meta({ placeholder: 'FILE' }),
  requesterPays: z.boolean().default(false).describe('pay for the requests to a bucket of somebody else'),
  checksums: z
    .enum(['required', ...CHECKSUMS])
    .default('required')
    .describe(
      'the checksum that the bucket keeps of what is written, for whoever reads it: none but where the service requires one, or of this kind; ' +
        'the signature covers every uploaded byte by SHA-256 either way',
    ),
  verify: z
    .enum(['small', 'whole'])
    .default('small')
    .describe(
      'which files are compared with their checksum, or the MD5 that their ETag is, as they are read: those of up to 512 KiB; ' +
        'or larger ones too where they are read from start to end, by a request more for each, of which the last read fails with EIO',
    ),

  memoryCache: bytesIfAny(4 * MiB, 2 ** 40, '64m').describe(
    'bytes of file data held in memory; default: 64m, but no more than a quarter of what this process may use, and at least 4m',
  ),
  diskCache: bytes(0, 2 ** 50, '1g').describe('bytes of file data cached on disk; 0 for none'),
  readAhead: bytes(0, 1024 * MiB, '16m').describe('bytes read ahead of a sequential reader, at most'),
  uploadLimit: bytesIfAny(128 * 1024, 2 ** 40, '10m').describe(
    'bytes of data that go to the bucket in a second, at most; default: no limit',
  ),
  downloadLimit: bytesIfAny(128 * 1024, 2 ** 40, '10m').describe(
    'bytes of data that come from the bucket in a second, at most; default: no limit',
  ),
  requests: z.coerce.number().int().min(1).max(1024).default(32).describe('requests in flight'),
  uploads: z.coerce
    .number()
    .int()
    .min(1)
    .max(256)
    .default(8)
    .describe('files that are uploaded at the same time'),
  requestTimeout: seconds(20).describe(
    'seconds without progress after which a request is given up and repeated',
  ),
  operationTimeout: seconds(60).describe(
    'seconds after which an operation of the guest fails with ETIMEDOUT',
  ),
});

/** Checked options. */
export type S3Options = z.infer<typeof optionsSchema>;
