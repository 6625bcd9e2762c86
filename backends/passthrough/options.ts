import * as z from 'zod';

/** What an operator may set for a share. */
export const options = z.strictObject({
  sharedDir: z.string().min(1).describe('Directory of the host to share').meta({ placeholder: 'DIR' }),
  cache: z
    .enum(['auto', 'always', 'metadata', 'never'])
    .default('auto')
    .describe(
      'What guests may cache: auto (all, for a second), always (all, for a day), metadata (names and attributes for a day, no content), never',
    ),
  writeback: z.boolean().default(false).describe('Guests collect writes and send them later'),
  allowDirectIo: z.boolean().default(false).describe('Pass the O_DIRECT of guests on to the host'),
  ioThreads: z
    .number()
    .int()
    .min(0)
    .max(64)
    .default(0)
    .describe('Threads that carry out reads while others wait, for hosts with processors to spare')
    .meta({ placeholder: 'COUNT' }),
  inodeFileHandles: z
    .enum(['prefer', 'mandatory', 'never'])
    .default('prefer')
    .describe('Remember files by file handle rather than by an open descriptor each'),
  cachedDescriptors: z
    .number()
    .int()
    .min(16)
    .max(65536)
    .optional()
    .describe(
      'Descriptors kept open for speed where files are remembered by handle (default: half of those that the process may open, 16,384 at most)',
    ),
  descriptors: z
    .number()
    .int()
    .min(64)
    .max(1048576)
    .default(8192)
    .describe('Most descriptors kept open for files that can be remembered in no other way'),
  migrationMode: z
    .enum(['find-paths', 'file-handles'])
    .default('find-paths')
    .describe(
      'How files are found where a guest migrates to: by their paths, or by file handle in the very same file system',
    ),
  migrationVerifyHandles: z
    .boolean()
    .default(false)
    .describe('With find-paths: take a file only if it is the very same, in the same file system'),
  submounts: z
    .enum(['announce', 'cross', 'refuse'])
    .default('announce')
    .describe(
      'File systems mounted below the directory: shown as mounts of their own, as plain directories, or not at all',
    ),
  specialFiles: z
    .enum(['refuse', 'open'])
    .default('refuse')
    .describe(
      "What to do when a guest opens the host's device, fifo or socket itself; Linux guests never do",
    ),
  privilegedFiles: z
    .enum(['refuse', 'allow'])
    .optional()
    .describe(
      'Whether guests may make device nodes and set file capabilities (security.capability); refused by default where owners are translated',
    ),
  trustedXattrs: z
    .enum(['refuse', 'allow'])
    .default('refuse')
    .describe(
      'Whether the root user of a guest has trusted.* attributes, as overlayfs of this host believes them; takes CAP_SYS_ADMIN',
    ),
  xattr: z.boolean().default(true).describe('Extended attributes'),
  xattrmap: z
    .string()
    .optional()
    .describe('Rules that map names of extended attributes, such as :map::user.virtiofs.:')
    .meta({ placeholder: 'RULES' }),
  posixAcl: z
    .boolean()
    .optional()
    .describe('POSIX access control lists; on unless owners are translated or xattrs are off'),
  securityLabel: z.boolean().default(false).describe("Set the guest's security contexts on new files"),
  requires: z
    .array(z.enum(['posix-acl', 'security-label']))
    .default([])
    .describe('What guests must support, where it is on; others cannot mount'),
  killprivV2: z
    .boolean()
    .default(true)
    .describe('Clear set-id bits here rather than in the guest; turn off for NFS'),
  translateUid: z
    .array(z.string())
    .default([])
    .describe('Translate users, such as map:0:100000:65536 or squash-guest:0:1000:4294967295')
    .meta({ placeholder: 'RULE' }),
  translateGid: z
    .array(z.string())
    .default([])
    .describe('Translate groups, as --translate-uid does users')
    .meta({ placeholder: 'RULE' }),
});

export type Options = z.infer<typeof options>;
