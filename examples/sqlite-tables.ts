import { statSync } from 'node:fs';
import { dirname } from 'node:path';
import sqlite from 'node-sqlite3-wasm';
import { definePlugin, FileType, FsError, OpenFlags } from 'virtiofs-kit';
import type { Attributes, Backend, DirectoryEntry, Entry } from 'virtiofs-kit';
import { z } from 'zod';

/*
 * A SQLite database: each table is a directory, each row a file of JSON that can be read, written,
 * made and removed. A row is changed in one step: when its file is closed, or when another file is
 * renamed to it. Files of other names are drafts, and stay in memory.
 *
 *     npm install node-sqlite3-wasm
 *     virtiofs-kit guest --backend ./sqlite-tables.js --database shop.db -- \
 *       sh -c 'cd /mnt/orders; cat 1.json; echo "{\"item\":\"tea\"}" > new && mv new 2.json'
 */

type Row = Record<string, sqlite.SQLiteValue>;

/** A table, a row or a draft; the root has none of these. */
interface Node {
  /** By which name it is known. */
  path: string;
  table?: string;
  /** The number of a row. */
  row?: bigint | undefined;
  /** What a file has that is not in the table: written and not closed yet, or a draft. */
  draft?: Buffer | undefined;
  /** When the draft was changed. */
  changed?: number | undefined;
  /** No name leads to it any more. */
  isRemoved?: boolean;
}

const LARGEST = 2 ** 24;
/** Bytes of all drafts together, those of removed files too. */
const DRAFTS_MAX = 2 ** 28;
/** Bytes that a draft takes beside its content. */
const DRAFT_COST = 1024;
/** Where a statement fails by these words, its values were not to blame. */
const FAULTS = [
  [/ is locked\b/, 'EBUSY'],
  [/^database or disk is full/, 'ENOSPC'],
  [/^attempt to write a readonly database/, 'EROFS'],
  [/^(disk I\/O error|database disk image is malformed|unable to open database file|out of memory)/, 'EIO'],
] as const;
const DIRECTORY: Attributes = { mode: FileType.DIRECTORY | 0o755 };

export function sqliteBackend(file: string): Backend<Node> {
  let database: sqlite.Database;
  const root: Node = { path: '' };
  let drafts = 0;
  const nodes = new Map<string, Node>();

  const rowOf = ({ table, row }: Omit<Node, 'path'>): Row | null =>
    asking(() => database.get(`SELECT * FROM ${quoted(table!)} WHERE rowid = ?`, row!) as Row | null);
  const hasRoom = ({ draft }: Node, size: number): boolean =>
    drafts - cost(draft) + size + DRAFT_COST <= DRAFTS_MAX;
  const setDraft = (node: Node, draft: Buffer | undefined): void => {
    drafts += cost(draft) - cost(node.draft);
    node.draft = draft;
  };
  const content = (node: Node): Buffer => {
    if (node.draft !== undefined) return node.draft;
    const row = node.row === undefined || node.isRemoved === true ? null : rowOf(node);
    if (row === null) throw FsError.of('ESTALE');
    return Buffer.from(`${JSON.stringify(row, toJson, 2)}\n`);
  };
  const attributes = (node: Node): Attributes => {
    if (node.row === undefined && node.draft === undefined) return DIRECTORY;
    const nlink = node.isRemoved === true ? 0 : 1;
    // Others may change the database: then its rows count as changed.
    const mtime = node.changed ?? statSync(file).mtimeMs / 1000;
    return { mode: FileType.REGULAR | 0o644, size: content(node).length, nlink, mtime };
  };
  const nodeOf = (path: string, make: () => Omit<Node, 'path'>): Node => {
    const node = nodes.get(path) ?? { ...make(), path };
    nodes.set(path, node);
    return node;
  };
  /** Its name leads elsewhere. Whoever has it open goes on with what it had, if there is room. */
  const detach = (node: Node, text: Buffer): void => {
    if (node.draft === undefined && hasRoom(node, text.length)) setDraft(node, text);
    node.isRemoved = true;
  };
  const tables = (): string[] =>
    asking(() =>
      database.all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"),
    )
      .map(({ name }) => String(name))
      .filter((name) => !name.includes('/'));

  /** Puts JSON into the table, in one statement. What is no row of it is EINVAL. */
  function store(table: string, row: bigint, text: Buffer): void {
    try {
      const values = JSON.parse(text.toString()) as Row;
      const names = Object.keys(values).filter((name) => name !== 'rowid');
      const columns = ['rowid', ...names.map(quoted)].join();
      const marks = ['?', ...names.map(() => '?')].join();
      const bound = names.map((name) => toSql(values[name]));
      database.run(`INSERT OR REPLACE INTO ${quoted(table)} (${columns}) VALUES (${marks})`, [row, ...bound]);
    } catch (error) {
      throw faultOf(error) ?? FsError.of('EINVAL');
    }
  }
  const commit = (node: Node): void => {
    // What has no name is nobody's row.
    if (node.row === undefined || node.draft === undefined || node.isRemoved === true) return;
    store(node.table!, node.row, node.draft);
    setDraft(node, undefined);
    node.changed = undefined;
  };
  const resize = (node: Node, size: number): void => {
    if (node.row === undefined && node.draft === undefined) throw FsError.of('EISDIR');
    if (size > LARGEST) throw FsError.of('EFBIG');
    if (!hasRoom(node, size)) throw FsError.of('ENOSPC');
    const draft = Buffer.alloc(size);
    if (size > 0) content(node).copy(draft);
    node.changed = Date.now() / 1000;
    setDraft(node, draft);
  };
  const find = ({ table }: Node, name: string): Node | undefined => {
    if (table === undefined)
      return tables().includes(name) ? nodeOf(name, () => ({ table: name })) : undefined;
    const path = `${table}/${name}`;
    const known = nodes.get(path);
    if (known?.draft !== undefined) return known;
    const row = rowNumber(name);
    if (row === undefined || rowOf({ table, row }) === null) return undefined;
    return nodeOf(path, () => ({ table, row }));
  };
  const entry = (node: Node): Entry<Node> => ({ node, attributes: attributes(node) });

  return {
    cache: { entryTimeout: 1, attributeTimeout: 1 },
    mount() {
      database = new sqlite.Database(file, { fileMustExist: true });
      return root;
    },
    unmount: () => database.close(),
    lookup(parent, name) {
      const node = find(parent, name);
      return node && entry(node);
    },
    getattr: attributes,
    setattr(node, { size }) {
      if (size !== undefined) resize(node, size);
      return attributes(node);
    },
    readdir({ table }): DirectoryEntry[] {
      if (table === undefined) return tables().map((name) => ({ name, type: FileType.DIRECTORY }));
      const rows = asking(() => database.all(`SELECT rowid AS row FROM ${quoted(table)}`));
      const names = new Set(rows.map(({ row }) => `${String(row)}.json`));
      for (const [path, { draft }] of nodes)
        if (draft !== undefined && path.startsWith(`${table}/`)) names.add(path.slice(table.length + 1));
      return [...names].map((name) => ({ name, type: FileType.REGULAR }));
    },
    create(parent, name, _mode, flags) {
      if (parent.table === undefined) throw FsError.of('EPERM');
      const known = find(parent, name);
      if (known !== undefined && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
      const { table } = parent;
      const node = known ?? { path: `${table}/${name}`, table, row: rowNumber(name) };
      if (known === undefined) {
        if (!hasRoom(node, 0)) throw FsError.of('ENOSPC');
        setDraft(node, Buffer.alloc(0));
        nodes.set(node.path, node);
      }
      if ((flags & OpenFlags.TRUNC) !== 0) resize(node, 0);
      return { ...entry(node), file: undefined };
    },
    open(node, flags) {
      if ((flags & OpenFlags.TRUNC) !== 0) resize(node, 0);
      return { file: undefined };
    },
    read(node, _file, buffer, offset) {
      const part = content(node).subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    },
    write(node, _file, buffer, offset) {
      resize(node, Math.max(content(node).length, offset + buffer.length));
      buffer.get(0, node.draft!, offset, offset + buffer.length);
      return buffer.length;
    },
    flush: commit,
    fsync: commit,
    unlink(parent, name) {
      const node = find(parent, name);
      if (node?.table === undefined || parent.table === undefined)
        throw FsError.of(node ? 'EISDIR' : 'ENOENT');
      const text = content(node);
      if (node.row !== undefined) remove(node.table, node.row);
      detach(node, text);
      nodes.delete(node.path);
    },
    rename(parent, name, newParent, newName, flags) {
      const node = find(parent, name);
      if (node === undefined) throw FsError.of('ENOENT');
      const { table } = newParent;
      if (flags !== 0 || parent.table === undefined || table === undefined) throw FsError.of('EINVAL');
      if (parent === newParent && name === newName) return;
      const text = content(node);
      const row = rowNumber(newName);
      if (row === undefined && !hasRoom(node, text.length)) throw FsError.of('ENOSPC');
      const replaced = find(newParent, newName);
      const old = replaced && content(replaced);
      database.exec('BEGIN');
      try {
        if (row !== undefined) store(table, row, text);
        if (node.row !== undefined) remove(parent.table, node.row);
        database.exec('COMMIT');
      } catch (error) {
        // Some faults have rolled it back.
        if (database.inTransaction) database.exec('ROLLBACK');
        throw faultOf(error) ?? error;
      }
      setDraft(node, row === undefined ? text : undefined);
      if (replaced !== undefined) detach(replaced, old!);
      nodes.delete(node.path);
      Object.assign(node, { path: `${table}/${newName}`, table, row, changed: undefined });
      nodes.set(node.path, node);
    },
    forget(node) {
      // A draft stays until it is removed, or is a row.
      if (node.draft !== undefined && node.isRemoved !== true) return;
      setDraft(node, undefined);
      if (nodes.get(node.path) === node) nodes.delete(node.path);
    },
  };

  function remove(table: string, row: bigint): void {
    asking(() => database.run(`DELETE FROM ${quoted(table)} WHERE rowid = ?`, row));
  }
}

function asking<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw faultOf(error) ?? error;
  }
}

/** A fault of the database, or of what it lies on. */
function faultOf(error: unknown): FsError | undefined {
  if (!(error instanceof sqlite.SQLite3Error)) return undefined;
  const [, code] = FAULTS.find(([words]) => words.test(error.message)) ?? [];
  return code && FsError.of(code);
}

function cost(draft: Buffer | undefined): number {
  return draft === undefined ? 0 : draft.length + DRAFT_COST;
}

function rowNumber(name: string): bigint | undefined {
  const [, digits] = /^(-?(?:0|[1-9]\d{0,17}))\.json$/.exec(name) ?? [];
  return digits === undefined ? undefined : BigInt(digits);
}

function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

/** Bytes are texts of base64 in JSON, large integers texts of digits. */
function toJson(_key: string, value: unknown): unknown {
  if (value instanceof Uint8Array) return { base64: Buffer.from(value).toString('base64') };
  return typeof value === 'bigint' ? String(value) : value;
}

function toSql(value: unknown): sqlite.JSValue {
  const { base64 } = Object(value) as { base64?: unknown };
  if (typeof base64 === 'string') return Buffer.from(base64, 'base64');
  if (value === null || ['string', 'number', 'boolean'].includes(typeof value))
    return value as sqlite.JSValue;
  throw FsError.of('EINVAL');
}

export default definePlugin({
  name: 'sqlite',
  description: 'the tables of a SQLite database as directories, its rows as files of JSON',
  options: z.strictObject({
    database: z.string().describe('the database').meta({ placeholder: 'FILE' }),
  }),
  create: ({ database }) => sqliteBackend(database),
  // SQLite makes its journal beside the database, and WebAssembly is compiled when it is needed.
  needs: ({ database }) => ({ paths: [{ path: dirname(database), write: true }], machineCode: true }),
});
