import * as z from 'zod';
import { Opcode } from '../fuse/wire/abi.js';
import type { TracedRequest } from './reader.js';

const opcodes = Object.keys(Opcode) as [keyof typeof Opcode, ...(keyof typeof Opcode)[]];

/** Which requests are shown. All that is said must hold. */
export const filterSchema = z.strictObject({
  opcodes: z
    .array(z.enum(opcodes))
    .optional()
    .describe('requests of these kinds only, such as READ')
    .meta({ flag: 'opcode', placeholder: 'OPCODE' }),
  uid: z.number().int().min(0).optional().describe('requests of this user of the guest only'),
  path: z
    .string()
    .startsWith('/', 'must begin with /')
    .optional()
    .describe('requests for this path in the export, and what is below it, as far as names are known')
    .meta({ placeholder: 'PATH' }),
  errors: z.boolean().optional().describe('requests that failed only'),
  slowerThan: z
    .number()
    .min(0)
    .optional()
    .describe('requests that took longer than so many milliseconds only')
    .meta({ placeholder: 'MS' }),
});

export type TraceFilter = z.output<typeof filterSchema>;

/** What tells whether a request is to be shown. */
export function filterOf({
  opcodes: names,
  uid,
  path,
  errors,
  slowerThan,
}: TraceFilter): (one: TracedRequest) => boolean {
  const numbers = names === undefined ? undefined : new Set<number>(names.map((name) => Opcode[name]));
  const prefix = path?.replace(/\/+$/, '');
  const isBelow = (other: string | undefined): boolean =>
    other !== undefined && (other === prefix || other.startsWith(`${prefix}/`));
  return (one) =>
    (numbers === undefined || numbers.has(one.opcode)) &&
    (uid === undefined || one.uid === uid) &&
    (prefix === undefined || isBelow(one.path) || isBelow(one.target)) &&
    (errors !== true || one.errno !== 0) &&
    (slowerThan === undefined || one.duration > slowerThan * 1000);
}
