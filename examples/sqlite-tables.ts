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
/** Bytes of all drafts together. */
const DRAFTS_MAX = 2 ** 28;
const DIRECTORY: Attributes = { mode: FileType.DIRECTORY | 0o755 };

export function sqliteBackend(file: string): Backend<Node> {
  let database: sqlite.Database;
  const root: Node = {};
  const nodes = new Map<string, Node>();

  const rowOf = ({ table, row }: Node): Row | null =>
    database.get(`SELECT * FROM ${quoted(table!)} WHERE rowid = ?`, row!) as Row | null;
  const content = (node: Node): Buffer => {
    if (node.draft !== undefined) return node.draft;
    const row = node.row === undefined ? null : rowOf(node);
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
  const nodeOf = (path: string, make: () => Node): Node => {
    const node = nodes.get(path) ?? make();
    nodes.set(path, node);
    return node;
  };
  const tables = (): string[] =>
    database
      .all("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
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
    } catch {
      throw FsError.of('EINVAL');
    }
  }
  const commit = (node: Node): void => {
    // What has no name is nobody's row.
    if (node.row === undefined || node.draft === undefined || node.isRemoved === true) return;
    store(node.table!, node.row, node.draft);
    node.draft = node.changed = undefined;
  };
  const resize = (node: Node, size: number): void => {
    if (node.row === undefined && node.draft === undefined) throw FsError.of('EISDIR');
    if (size > LARGEST) throw FsError.of('EFBIG');
    let drafts = size;
    for (const { draft } of nodes.values()) drafts += draft?.length ?? 0;
    if (drafts > DRAFTS_MAX) throw FsError.of('ENOSPC');
    const old = size === 0 ? Buffer.alloc(0) : content(node);
    node.changed = Date.now() / 1000;
    node.draft = Buffer.concat([old, Buffer.alloc(Math.max(0, size - old.length))]).subarray(0, size);
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
      const rows = database.all(`SELECT rowid AS row FROM ${quoted(table)}`);
      const names = new Set(rows.map(({ row }) => `${String(row)}.json`));
      for (const [path, { draft }] of nodes)
        if (draft !== undefined && path.startsWith(`${table}/`)) names.add(path.slice(table.length + 1));
      return [...names].map((name) => ({ name, type: FileType.REGULAR }));
    },
    create(parent, name, _mode, flags) {
      if (parent.table === undefined) throw FsError.of('EPERM');
      const known = find(parent, name);
      if (known !== undefined && (flags & OpenFlags.EXCL) !== 0) throw FsError.of('EEXIST');
      const row = rowNumber(name);
      const made = { table: parent.table, ...(row !== undefined && { row }), draft: Buffer.alloc(0) };
      const node = known ?? made;
      nodes.set(`${parent.table}/${name}`, node);
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
      node.draft ??= content(node);
      node.isRemoved = true;
      if (node.row !== undefined) remove(node.table, node.row);
      nodes.delete(`${node.table}/${name}`);
    },
    rename(parent, name, newParent, newName, flags) {
      const node = find(parent, name);
      if (node === undefined) throw FsError.of('ENOENT');
      const { table } = newParent;
      if (flags !== 0 || parent.table === undefined || table === undefined) throw FsError.of('EINVAL');
      if (parent === newParent && name === newName) return;
      const text = content(node);
      const row = rowNumber(newName);
      const replaced = find(newParent, newName);
      database.exec('BEGIN');
      try {
        if (row !== undefined) store(table, row, text);
        if (node.row !== undefined) remove(parent.table, node.row);
        database.exec('COMMIT');
      } catch (error) {
        database.exec('ROLLBACK');
        throw error;
      }
      if (replaced !== undefined) replaced.isRemoved = true;
      Object.assign(node, { table, row, draft: row === undefined ? text : undefined, changed: undefined });
      nodes.delete(`${parent.table}/${name}`);
      nodes.set(`${table}/${newName}`, node);
    },
    forget(node) {
      // A draft stays until it is removed, or is a row.
      if (node.draft !== undefined && node.isRemoved !== true) return;
      for (const [path, known] of nodes) if (known === node) nodes.delete(path);
    },
  };

  function remove(table: string, row: bigint): void {
    database.run(`DELETE FROM ${quoted(table)} WHERE rowid = ?`, row);
  }
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
