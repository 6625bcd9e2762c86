import type { Listing } from '../../core/state/directory-stream.js';
import type { DirectoryEntry } from '../../core/backend/index.js';

/** The entries of a backend's synchronous listing, without `.` and `..`. */
export function entriesOf(listing: unknown): DirectoryEntry[] {
  return [...(listing as Iterable<DirectoryEntry>)].filter(isName);
}

/** The entries of any listing, without `.` and `..`. */
export async function allEntriesOf(listing: Listing): Promise<DirectoryEntry[]> {
  const entries: DirectoryEntry[] = [];
  for await (const entry of listing) if (isName(entry)) entries.push(entry);
  return entries;
}

function isName({ name }: DirectoryEntry): boolean {
  return name !== '.' && name !== '..';
}
