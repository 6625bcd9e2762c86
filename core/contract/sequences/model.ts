import type { Operation } from './operation.js';

/** A regular file of the model. */
export interface ModelFile {
  readonly kind: 'file';
  content: Uint8Array;
  links: number;
}

/** A directory of the model. */
export interface ModelDirectory {
  readonly kind: 'directory';
  readonly entries: Map<string, ModelNode>;
}

export type ModelNode = ModelFile | ModelDirectory;

/**
 * What an operation has to do: succeed, be refused with ENOTEMPTY, or not be tried, since Linux
 * refuses it before it asks a file system.
 */
export type Verdict = 'done' | 'ENOTEMPTY' | 'not tried';

/** A file system that is right, of files and directories alone. */
export class Model {
  readonly root: ModelDirectory = { kind: 'directory', entries: new Map() };
  readonly #open = new Map<number, ModelFile>();

  /** @returns undefined for a path that is not there. */
  find(path: string): ModelNode | undefined {
    let node: ModelNode | undefined = this.root;
    for (const name of parts(path)) node = node?.kind === 'directory' ? node.entries.get(name) : undefined;
    return node;
  }

  /** The open file of a slot. */
  opened(slot: number): ModelFile | undefined {
    return this.#open.get(slot);
  }

  /** Carries an operation out, if it can be. */
  apply(operation: Operation): Verdict {
    switch (operation.kind) {
      case 'create':
        return this.#make(operation.path, { kind: 'file', content: new Uint8Array(0), links: 1 });
      case 'mkdir':
        return this.#make(operation.path, { kind: 'directory', entries: new Map() });
      case 'read':
        return this.#file(operation.path) === undefined ? 'not tried' : 'done';
      case 'list':
        return this.find(operation.path)?.kind === 'directory' ? 'done' : 'not tried';
      case 'write':
        return write(this.#file(operation.path), operation);
      case 'truncate':
        return cut(this.#file(operation.path), operation.size);
      case 'unlink':
        return this.#unlink(operation.path);
      case 'rmdir':
        return this.#rmdir(operation.path);
      case 'rename':
        return this.#rename(operation.path, operation.to);
      case 'link':
        return this.#link(operation.path, operation.to);
      case 'open':
        return this.#openFile(operation.path, operation.slot);
      case 'close':
        return this.#open.delete(operation.slot) ? 'done' : 'not tried';
      case 'readOpen':
        return this.#open.has(operation.slot) ? 'done' : 'not tried';
      case 'writeOpen':
        return write(this.#open.get(operation.slot), operation);
    }
  }

  #file(path: string): ModelFile | undefined {
    const node = this.find(path);
    return node?.kind === 'file' ? node : undefined;
  }

  /** The directory of a path, if it is there, and the last name. */
  #place(path: string): { entries: Map<string, ModelNode>; name: string } | undefined {
    const names = parts(path);
    const name = names.pop()!;
    const parent = this.find(names.join('/'));
    return parent?.kind === 'directory' ? { entries: parent.entries, name } : undefined;
  }

  #make(path: string, node: ModelNode): Verdict {
    const place = this.#place(path);
    if (place === undefined || place.entries.has(place.name)) return 'not tried';
    place.entries.set(place.name, node);
    return 'done';
  }

  #unlink(path: string): Verdict {
    const file = this.#file(path);
    if (file === undefined) return 'not tried';
    const { entries, name } = this.#place(path)!;
    entries.delete(name);
    file.links -= 1;
    return 'done';
  }

  #rmdir(path: string): Verdict {
    const node = this.find(path);
    if (node?.kind !== 'directory') return 'not tried';
    if (node.entries.size > 0) return 'ENOTEMPTY';
    const { entries, name } = this.#place(path)!;
    entries.delete(name);
    return 'done';
  }

  #rename(path: string, to: string): Verdict {
    const node = this.find(path);
    const target = this.#place(to);
    if (node === undefined || target === undefined || to.startsWith(`${path}/`)) return 'not tried';
    // Linux refuses what would put a directory below itself, from above too.
    if (path.startsWith(`${to}/`)) return 'not tried';
    const there = target.entries.get(target.name);
    if (there === node) return path === to ? 'not tried' : 'done';
    if (there !== undefined && there.kind !== node.kind) return 'not tried';
    if (there?.kind === 'directory' && there.entries.size > 0) return 'ENOTEMPTY';
    if (there?.kind === 'file') there.links -= 1;
    const { entries, name } = this.#place(path)!;
    entries.delete(name);
    target.entries.set(target.name, node);
    return 'done';
  }

  #link(path: string, to: string): Verdict {
    const file = this.#file(path);
    const target = this.#place(to);
    if (file === undefined || target === undefined || target.entries.has(target.name)) return 'not tried';
    target.entries.set(target.name, file);
    file.links += 1;
    return 'done';
  }

  #openFile(path: string, slot: number): Verdict {
    const file = this.#file(path);
    if (file === undefined || this.#open.has(slot)) return 'not tried';
    this.#open.set(slot, file);
    return 'done';
  }
}

function parts(path: string): string[] {
  return path === '' ? [] : path.split('/');
}

function write(
  file: ModelFile | undefined,
  { offset, length, letter }: { offset: number; length: number; letter: string },
): Verdict {
  if (file === undefined) return 'not tried';
  const content = new Uint8Array(Math.max(file.content.length, offset + length));
  content.set(file.content);
  content.fill(letter.charCodeAt(0), offset, offset + length);
  file.content = content;
  return 'done';
}

function cut(file: ModelFile | undefined, size: number): Verdict {
  if (file === undefined) return 'not tried';
  const content = new Uint8Array(size);
  content.set(file.content.subarray(0, size));
  file.content = content;
  return 'done';
}
