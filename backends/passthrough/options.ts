import { z } from 'zod';

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
  inodeFileHandles: z
    .enum(['prefer', 'mandatory', 'never'])
    .default('prefer')
    .describe('Remember files by file handle rather than by an open descriptor each'),
  cachedDescriptors: z
    .number()
    .int()
    .min(16)
    .max(65536)
    .default(512)
    .describe('Descriptors kept open for speed where files are remembered by handle'),
  descriptors: z
    .number()
    .int()
    .min(64)
    .max(1048576)
    .default(8192)
    .describe('Most descriptors kept open for files that can be remembered in no other way'),
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
  xattr: z.boolean().default(true).describe('Extended attributes'),
  posixAcl: z.boolean().default(true).describe('POSIX access control lists'),
});

export type Options = z.infer<typeof options>;
