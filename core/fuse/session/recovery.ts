import { FsError, type Backend, type Context, type NodeKey } from '../../backend/index.js';
import {
  IntentKind,
  type Left,
  NO_SLOT,
  type OpenIntent,
  type Restored,
  saveKey,
  uniqueOf,
  type Verdict,
} from '../../state/index.js';
import { REPLY_CAPACITY } from '../wire/reply.js';
import { RequestContext } from './request.js';
import type { Session } from './session.js';

/**
 * Finds out what has become of the requests that a killed process had begun: see
 * `docs/crashes.md`. To be called before any guest goes on, for what guests do later would look the
 * same.
 * @param sessions those of `left`, in order.
 * @throws RangeError for an answer that is longer than any is.
 */
export async function recoverRequests(
  restored: Restored,
  left: Left,
  sessions: readonly Session[],
): Promise<void> {
  const judge = new Judge(restored);
  for (const [index, session] of sessions.entries()) {
    const { intents, verdicts } = left.sessions[index]!;
    const recovered = new Map<number, Verdict>();
    for (const { unique, verdict } of verdicts) {
      if (verdict.kind === 'answered' && verdict.length > REPLY_CAPACITY)
        throw new RangeError(`session journal: an answer of ${verdict.length} bytes`);
      recovered.set(
        uniqueOf(...unique),
        verdict.kind !== 'gave'
          ? verdict
          : {
              kind: 'gave',
              place: verdict.place,
              lookups: verdict.lookups
                .map(([node, count]) => [restored.slot(node), count] as const)
                .filter(([slot]) => slot !== NO_SLOT),
            },
      );
    }
    for (const intent of intents) {
      const bytes = await judge.bytesDone(intent);
      if (bytes !== undefined) recovered.set(uniqueOf(...intent.unique), { kind: 'happened', bytes });
    }
    if (recovered.size > 0) session.recovered = recovered;
  }
}

/** Looks at the backend for what was done. */
class Judge {
  readonly #restored: Restored;
  readonly #backend: Backend;
  readonly #context: Context = new RequestContext(this);
  /** Bytes of files that earlier appends have written, by node. */
  readonly #appended = new Map<number, number>();

  constructor(restored: Restored) {
    this.#restored = restored;
    this.#backend = restored.export.backend;
  }

  /**
   * @returns undefined if it was not carried out, or nobody can tell.
   * @throws what is no `FsError`, such as that a server does not answer now: the next process tries
   * again.
   */
  async bytesDone(intent: OpenIntent): Promise<number | undefined> {
    try {
      if (intent.kind === IntentKind.APPEND) return await this.#appendedBy(intent);
      return (await this.#happened(intent)) ? 0 : undefined;
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      return undefined;
    }
  }

  async #happened({ kind, node, otherNode, name, newName, key, size }: OpenIntent): Promise<boolean> {
    switch (kind) {
      case IntentKind.CREATION:
        return (await this.#keyOf(node, name)) !== undefined;
      case IntentKind.LINK:
        return isSame(await this.#keyOf(node, name), key);
      case IntentKind.REMOVAL:
        return !isSame(await this.#keyOf(node, name), key);
      case IntentKind.RENAME:
        return (
          isSame(await this.#keyOf(otherNode, newName), key) && !isSame(await this.#keyOf(node, name), key)
        );
      case IntentKind.XATTR_SET:
        return (await this.#xattr(node, name)) !== undefined;
      case IntentKind.XATTR_REMOVED:
        return (await this.#xattr(node, name)) === undefined;
      case IntentKind.MOVE:
        return (await this.#sizeOf(node)) !== size;
      default:
        return false;
    }
  }

  async #sizeOf(node: number): Promise<number> {
    const { size = 0 } = await this.#backend.getattr(this.#node(node), undefined, this.#context);
    return size;
  }

  /** Appends were made in the order in which they were begun. */
  async #appendedBy({ node, size, length }: OpenIntent): Promise<number | undefined> {
    const now = await this.#sizeOf(node);
    const before = this.#appended.get(node) ?? size;
    const bytes = Math.min(Math.max(now - before, 0), length);
    this.#appended.set(node, before + bytes);
    return bytes === 0 ? undefined : bytes;
  }

  async #keyOf(parent: number, name: string): Promise<NodeKey | undefined> {
    const entry = await this.#backend.lookup(this.#node(parent), name, this.#context);
    if (entry === undefined) return undefined;
    const { node } = entry;
    const key = this.#backend.key!(node);
    this.#restored.export.nodes.discard(node);
    return key;
  }

  async #xattr(node: number, name: string): Promise<Uint8Array | undefined> {
    return this.#backend.getxattr!(this.#node(node), name, this.#context);
  }

  /** @throws ESTALE for a node that is gone. */
  #node(index: number): object {
    const slot = this.#restored.slot(index);
    if (slot === NO_SLOT) throw FsError.of('ESTALE');
    return this.#restored.export.nodes.node(slot);
  }
}

function isSame(key: NodeKey | undefined, saved: OpenIntent['key']): boolean {
  return key !== undefined && saved !== undefined && JSON.stringify(saveKey(key)) === JSON.stringify(saved);
}
