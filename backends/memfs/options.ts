import * as z from 'zod';
import { PAGE_BYTES } from './content/chunk.js';
import { memoryLimit } from '../../core/backend/limits.js';
import { bitsOf, permissionBits } from '../../core/backend/permission-bits.js';
import { defaultInodes, defaultSize } from './limits.js';

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

/** A size as people write it, in bytes. */
export const sizeOption = z
  .union([z.string(), z.number()])
  .transform((given, context) => {
    const match = /^(\d+(?:\.\d+)?)\s*([kmgt%]?)(?:i?b)?$/i.exec(String(given).trim());
    const unit = match?.[2]?.toLowerCase() ?? '';
    const scale = unit === '%' ? memoryLimit() / 100 : UNITS[unit];
    if (match === null || scale === undefined) {
      context.addIssue('not a size; write bytes or, say, 512m, 4g or 50%');
      return z.NEVER;
    }
    return Math.floor(Number(match[1]) * scale);
  })
  .refine((bytes) => bytes >= PAGE_BYTES && Number.isSafeInteger(bytes), {
    error: 'at least one page of 4096 bytes',
  });

const owner = z.number().int().min(0).max(0xffff_fffe).optional();

/** Options of a memfs export. */
export const options = z.strictObject({
  size: sizeOption
    .default(defaultSize)
    .describe('most bytes of file content; default half of the memory')
    .meta({ placeholder: 'SIZE', unit: 'bytes' }),
  inodes: z
    .number()
    .int()
    .min(1)
    .default(defaultInodes)
    .describe(
      'most files and directories; default what a quarter of the JavaScript heap holds, at 1 KiB each',
    )
    .meta({ placeholder: 'COUNT' }),
  mode: permissionBits
    .transform(bitsOf)
    .optional()
    .describe('permissions of the root directory; default 0755, or what `from` or `base` has')
    .meta({ placeholder: 'MODE' }),
  uid: owner
    .describe('owner of the root directory; default 0, or what `from` or `base` has')
    .meta({ placeholder: 'UID' }),
  gid: owner
    .describe('group of the root directory; default 0, or what `from` or `base` has')
    .meta({ placeholder: 'GID' }),
  from: z
    .string()
    .optional()
    .describe(
      'content to begin with: a directory, an archive (tar, gzipped or not), or a memfs volume (*.json)',
    )
    .meta({ placeholder: 'PATH' }),
  base: z
    .string()
    .optional()
    .describe('name of a memfs volume or snapshot to begin as; its memory is shared until written')
    .meta({ placeholder: 'NAME' }),
  name: z
    .string()
    .min(1)
    .optional()
    .describe('name of this volume, for the base of others and for the memfs commands'),
  save: z
    .string()
    .optional()
    .describe('archive to write at the end, gzipped if it ends in gz')
    .meta({ placeholder: 'FILE' }),
});

export type MemfsOptions = z.output<typeof options>;
