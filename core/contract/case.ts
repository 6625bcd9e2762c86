import { type Backend, FileType, OpenFlags } from '../backend/index.js';
import type { Client, Found, OpenFile } from './client.js';
import { ContractFailure } from './expect.js';

/** Methods that a case needs. */
export type Method = Exclude<keyof Backend, 'cache' | 'semantics'>;

/** What a case gets to work with. */
export interface Trial {
  readonly client: Client;
  /**
   * The backend under test. Cases read its properties and call only `key` and `resolve` on it.
   */
  readonly backend: Backend;
  /**
   * An empty directory for this case alone. If the backend can make none, it is the one in which to
   * begin.
   */
  readonly directory: bigint;
  /** The key of a known node, as text that is the same for the same key. */
  keyOf(id: bigint): string | undefined;
  /** Chooses random sequences. */
  readonly seed: number;
  /** Content that the backend takes for a file. */
  readonly content: Uint8Array;
  /**
   * Closes the session and the backend, and makes new ones. Former node ids and handles are
   * invalid.
   */
  restart(): Promise<Trial>;
}

/** One rule of the contract. */
export interface ContractCase {
  /** The rule, as a sentence about a backend that keeps the contract. */
  readonly name: string;
  /** The case runs only on backends with these methods. Of a nested array one is enough. */
  readonly needs: readonly (Method | readonly Method[])[];
  /** Tries it. @throws AssertionError that says what was expected and what came. */
  run(trial: Trial): Promise<void>;
}

/** The methods that make a regular file. Without CREATE Linux uses MKNOD and OPEN. */
export const CREATES: readonly Method[] = ['create', 'mknod'];

/** Makes and opens a regular file. */
export async function createFile(
  { client, backend, directory }: Trial,
  name: string,
  { mode = 0o644, flags = OpenFlags.READ_WRITE, parent = directory } = {},
): Promise<Found & { readonly file: OpenFile }> {
  if (backend.create !== undefined) {
    return client.create(parent, name, FileType.REGULAR | mode, flags | OpenFlags.CREAT | OpenFlags.EXCL);
  }
  const found = await client.mknod(parent, name, FileType.REGULAR | mode);
  return { ...found, file: await client.open(found.id, flags) };
}

/** Makes a file with content, and closes it. */
export async function writeFile(trial: Trial, name: string, content: Uint8Array | string): Promise<Found> {
  const { file, ...found } = await createFile(trial, name);
  await writeAll(trial.client, file, 0, typeof content === 'string' ? Buffer.from(content) : content);
  await trial.client.closeFile(file);
  return found;
}

/** Writes any number of bytes. After a short write it continues, as Linux does. */
export async function writeAll(
  client: Client,
  file: OpenFile,
  offset: number,
  data: Uint8Array,
): Promise<void> {
  for (let at = 0; at < data.length;) {
    const written = await client.write(file, offset + at, data.subarray(at, at + CHUNK_BYTES));
    if (written === 0) throw new Error('a write of nothing');
    at += written;
  }
}

/**
 * Reads from an offset to the end.
 * @throws ContractFailure if a read before the end is short: Linux would take that for the end
 * (`fs/fuse/file.c`, fuse_short_read).
 */
export async function readAll(
  client: Client,
  file: OpenFile,
  offset = 0,
  chunk = CHUNK_BYTES,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let at = offset, asked = 0; ; asked = chunk) {
    const part = await client.read(file, at, chunk);
    if (part.length === 0) return Buffer.concat(parts);
    const before = parts.at(-1)?.length ?? 0;
    if (before < asked) {
      throw new ContractFailure(
        `a read of ${chunk} bytes before the end`,
        `${chunk} bytes`,
        `${before} bytes`,
      );
    }
    parts.push(part);
    at += part.length;
  }
}

/** The content of a node, which is opened and closed for that. */
export async function contentOf(client: Client, id: bigint): Promise<Uint8Array> {
  const file = await client.open(id);
  const content = await readAll(client, file);
  await client.closeFile(file);
  return content;
}

/** More names than any rule makes in one directory. */
const MANY_NAMES = 20_000;

/**
 * All names of a directory except `.` and `..`, in the order of the listing.
 * @throws ContractFailure if the listing does not end.
 */
export async function namesIn(client: Client, id: bigint, size?: number): Promise<string[]> {
  const directory = await client.opendir(id);
  const names: string[] = [];
  let cookie = 0n;
  for (;;) {
    const entries = await client.readdir(directory, cookie, size);
    if (entries.length === 0) break;
    for (const { name } of entries) if (name !== '.' && name !== '..') names.push(name);
    if (names.length > MANY_NAMES) {
      throw new ContractFailure('a listing', 'its end', `${names.length} names, and more`);
    }
    cookie = entries.at(-1)!.cookie;
  }
  await client.closedir(directory);
  return names;
}

/** Pseudorandom bytes; the same for the same seed. */
export function noise(length: number, seed = 1): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = (seed * 2_654_435_761) >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  return bytes;
}

const CHUNK_BYTES = 128 * 1024;
