import type * as z from 'zod';

/** What a text in JSON tells, in the form of a schema. @returns undefined for anything else. */
export function fromJson<Schema extends z.ZodType>(
  schema: Schema,
  text: string,
): z.output<Schema> | undefined {
  let told: unknown;
  try {
    told = JSON.parse(text);
  } catch {
    return undefined;
  }
  return schema.safeParse(told).data;
}
