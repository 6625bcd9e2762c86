import * as z from 'zod';

/** Permission bits as options give them: a number, or a string in octal. */
export const permissionBits = z.union([
  z.number().int().min(0).max(0o7777),
  z.string().regex(/^[0-7]{1,4}$/, 'must be octal, such as 0644'),
]);

/** The bits of what {@link permissionBits} allows. */
export function bitsOf(given: z.output<typeof permissionBits>): number {
  return typeof given === 'number' ? given : Number.parseInt(given, 8);
}
