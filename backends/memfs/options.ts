import { totalmem } from 'node:os';
import { getHeapStatistics } from 'node:v8';
import { z } from 'zod';
import { PAGE } from './chunk.js';

const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, t: 1024 ** 4 };

/** Bytes of heap that are set aside for one inode: the object, its entry and a long name. */
const HEAP_PER_INODE = 2048;

const size = z
  .union([z.string(), z.number()])
  .transform((given, context) => {
    const match = /^(\d+(?:\.\d+)?)\s*([kmgt%]?)(?:i?b)?$/i.exec(String(given).trim());
    const unit = match?.[2]?.toLowerCase() ?? '';
    const scale = unit === '%' ? memory() / 100 : UNITS[unit];
    if (match === null || scale === undefined) {
      context.addIssue(`${given}: not a size; write bytes or, say, 512m, 4g or 50%`);
      return z.NEVER;
    }
    return Math.floor(Number(match[1]) * scale);
  })
  .refine((bytes) => bytes >= PAGE && Number.isSafeInteger(bytes), {
    error: 'at least one page of 4096 bytes',
  });

/** Options of a memfs export. */
export const options = z.strictObject({
  size: size
    .default(() => Math.floor(memory() / 2))
    .describe('most bytes of file content; default half of the memory')
    .meta({ placeholder: 'SIZE', unit: 'bytes' }),
  inodes: z.coerce
    .number()
    .int()
    .min(1)
    .default(() => Math.floor(getHeapStatistics().heap_size_limit / HEAP_PER_INODE))
    .describe('most files and directories; default what half of the JavaScript heap holds')
    .meta({ placeholder: 'COUNT' }),
});

export type MemfsOptions = z.output<typeof options>;

/** Memory that this process may use, in bytes. */
function memory(): number {
  const constrained = process.constrainedMemory();
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}
