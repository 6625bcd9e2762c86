/** A field of a structure: its type, the bytes of an array, or a nested structure. */
type Field = 'u16' | 'u32' | 'i32' | 'u64' | number | { readonly bytes: number };

/**
 * A structure of the protocol: the offset of each field in bytes, and its size as `bytes`.
 */
export type Layout<Name extends string> = { readonly [F in Name]: number } & { readonly bytes: number };

const widths = { u16: 2, u32: 4, i32: 4, u64: 8 } as const;

/**
 * Lays out a structure as C does on 64-bit hosts: fields in order, each at a multiple of its width.
 * Arrays and nested structures are not aligned: FUSE's structures have them at aligned offsets
 * already (`fuse.h`: "all structures are padded to 64bit boundary").
 */
export function layout<const Fields extends Readonly<Record<string, Field>>>(
  fields: Fields,
): Layout<Extract<keyof Fields, string>> {
  const offsets: Record<string, number> = {};
  let at = 0;
  let alignment = 1;
  for (const [name, field] of Object.entries<Field>(fields)) {
    const unit = typeof field === 'string' ? widths[field] : 1;
    const width = typeof field === 'object' ? field.bytes : typeof field === 'number' ? field : unit;
    at = Math.ceil(at / unit) * unit;
    offsets[name] = at;
    at += width;
    alignment = Math.max(alignment, unit);
  }
  offsets['bytes'] = Math.ceil(at / alignment) * alignment;
  return offsets as Layout<Extract<keyof Fields, string>>;
}
