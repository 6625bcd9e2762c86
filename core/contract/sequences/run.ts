import { FsError, OpenFlags } from '../../backend/index.js';
import { createFile, namesIn, readAll, type Trial, writeAll } from '../case.js';
import type { OpenFile } from '../client.js';
import { ContractFailure, equal, sameBytes } from '../expect.js';
import { Model, type ModelDirectory, type ModelFile } from './model.js';
import type { Operation } from './operation.js';

/** A sequence has done something else than the model. */
export class Difference extends Error {
  override readonly name = 'Difference';
  /** How many operations it took; all of them where the difference was found afterwards. */
  readonly length: number;

  constructor(message: string, length: number) {
    super(message);
    this.length = length;
  }
}

/**
 * Carries a sequence out in an empty directory, and compares what it does and what it leaves.
 * @param hasLinks whether the backend has hard links. Operations that make them are left out else.
 * @throws Difference
 */
export async function runSequence(
  trial: Trial,
  sequence: readonly Operation[],
  hasLinks: boolean,
): Promise<void> {
  const run = new Run(trial, hasLinks);
  try {
    for (const [index, operation] of sequence.entries()) {
      await told(index + 1, () => run.step(operation));
    }
    await told(sequence.length, () => run.compare());
  } finally {
    await run.close();
  }
}

async function told(length: number, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (error instanceof ContractFailure || error instanceof FsError)
      throw new Difference(error instanceof FsError ? error.code : error.message, length);
    throw error;
  }
}

class Run {
  readonly #trial: Trial;
  readonly #model = new Model();
  readonly #open = new Map<number, OpenFile>();

  readonly #hasLinks: boolean;

  constructor(trial: Trial, hasLinks: boolean) {
    this.#trial = trial;
    this.#hasLinks = hasLinks;
  }

  async step(operation: Operation): Promise<void> {
    if (operation.kind === 'link' && !this.#hasLinks) return;
    const verdict = this.#model.apply(operation);
    if (verdict === 'not tried') return;
    if (verdict === 'done') return this.#carryOut(operation);
    try {
      await this.#carryOut(operation);
    } catch (error) {
      if (error instanceof FsError && (error.code === 'ENOTEMPTY' || error.code === 'EEXIST')) return;
      throw error;
    }
    throw new ContractFailure(operation.kind, 'ENOTEMPTY', 'success');
  }

  /** Compares the whole tree with the model's. */
  async compare(): Promise<void> {
    await this.#compareDirectory(this.#model.root, this.#trial.directory, '');
  }

  async close(): Promise<void> {
    for (const file of this.#open.values()) await this.#trial.client.closeFile(file).catch(() => undefined);
  }

  async #carryOut(operation: Operation): Promise<void> {
    const { client } = this.#trial;
    switch (operation.kind) {
      case 'create': {
        const { parent, name } = await this.#place(operation.path);
        const { file } = await createFile(this.#trial, name, { parent });
        return client.closeFile(file);
      }
      case 'mkdir': {
        const { parent, name } = await this.#place(operation.path);
        await client.mkdir(parent, name);
        return;
      }
      case 'unlink':
      case 'rmdir': {
        const { parent, name } = await this.#place(operation.path);
        return client[operation.kind](parent, name);
      }
      case 'rename': {
        const [from, to] = [await this.#place(operation.path), await this.#place(operation.to)];
        await client.lookup(from.parent, from.name);
        return client.rename(from.parent, from.name, to.parent, to.name);
      }
      case 'link': {
        const id = await this.#find(operation.path);
        const { parent, name } = await this.#place(operation.to);
        await client.link(id, parent, name);
        return;
      }
      case 'truncate':
        await client.change(await this.#find(operation.path), { size: operation.size });
        return;
      case 'write': {
        const file = await client.open(await this.#find(operation.path), OpenFlags.WRITE_ONLY);
        await writeAll(client, file, operation.offset, filled(operation));
        return client.closeFile(file);
      }
      case 'read':
        return this.#compareFile(this.#model.find(operation.path) as ModelFile, operation.path);
      case 'list': {
        const { entries } = this.#model.find(operation.path) as ModelDirectory;
        const names = await namesIn(client, await this.#find(operation.path));
        return equal(names.sort(), [...entries.keys()].sort(), `names in /${operation.path}`);
      }
      case 'open': {
        const id = await this.#find(operation.path);
        this.#open.set(operation.slot, await client.open(id, OpenFlags.READ_WRITE));
        return;
      }
      case 'close':
        await client.closeFile(this.#open.get(operation.slot)!);
        this.#open.delete(operation.slot);
        return;
      case 'writeOpen':
        return writeAll(client, this.#open.get(operation.slot)!, operation.offset, filled(operation));
      case 'readOpen': {
        const content = await readAll(client, this.#open.get(operation.slot)!);
        return sameBytes(content, this.#model.opened(operation.slot)!.content, 'content of the open file');
      }
    }
  }

  async #find(path: string): Promise<bigint> {
    let id = this.#trial.directory;
    for (const name of path.split('/').filter((part) => part !== ''))
      id = (await this.#trial.client.lookup(id, name)).id;
    return id;
  }

  async #place(path: string): Promise<{ parent: bigint; name: string }> {
    const cut = path.lastIndexOf('/');
    return { parent: await this.#find(path.slice(0, Math.max(0, cut))), name: path.slice(cut + 1) };
  }

  async #compareDirectory({ entries }: ModelDirectory, id: bigint, path: string): Promise<void> {
    const { client } = this.#trial;
    equal((await namesIn(client, id)).sort(), [...entries.keys()].sort(), `names in /${path}`);
    for (const [name, node] of entries) {
      const inner = path === '' ? name : `${path}/${name}`;
      if (node.kind === 'file') await this.#compareFile(node, inner);
      else await this.#compareDirectory(node, (await client.lookup(id, name)).id, inner);
    }
  }

  async #compareFile({ content, links }: ModelFile, path: string): Promise<void> {
    const { client } = this.#trial;
    const id = await this.#find(path);
    const stat = await client.stat(id);
    equal(stat.size, content.length, `size of /${path}`);
    if (this.#hasLinks) equal(stat.nlink, links, `links of /${path}`);
    const file = await client.open(id);
    sameBytes(await readAll(client, file), content, `content of /${path}`);
    await client.closeFile(file);
  }
}

function filled({ length, letter }: { length: number; letter: string }): Uint8Array {
  return new Uint8Array(length).fill(letter.charCodeAt(0));
}
