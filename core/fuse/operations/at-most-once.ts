/**
 * Requests that must not be carried out twice. Where a journal is kept, each notes before the
 * backend is asked what tells a later process whether it was carried out. What names stood for is
 * mostly known from the guest's own look (`RecentNames`). `session/recovery.ts`
 * finds that out, and such a request then comes here with {@link Request.happened}.
 */
import {
  andThen,
  type Awaitable,
  type Backend,
  type Entry,
  FileType,
  type NodeKey,
  RenameFlags,
} from '../../backend/index.js';
import {
  IntentKind,
  type NamedNode,
  NOT_RECENT,
  NO_SLOT,
  type SessionJournal,
  type Slot,
} from '../../state/index.js';
import type { Batch } from '../session/gathering.js';
import type { Request } from '../session/request.js';
import type { Session } from '../session/session.js';
import { GATHERED } from './operation.js';

/** XATTR_CREATE, setxattr(2): it fails with EEXIST where the attribute is there. */
const XATTR_CREATE = 1;

/** What a name stands for. The slot is {@link NO_SLOT} for a node that no guest knows. */
interface Named extends NamedNode {
  readonly isDirectory: boolean;
  /** Whether the file has no other name. */
  readonly isLast: boolean;
}

/** What a guest has found of a name that a request makes, removes, moves, or moves another to. */
const Expected = { MISSING: 0, REMOVED: 1, MOVED: 2, REPLACED: 3 } as const;
type Expected = (typeof Expected)[keyof typeof Expected];

/** It could not be found out what a name stands for. The backend's own method says why. */
const UNKNOWN = Symbol('unknown');

/**
 * Makes a name.
 * @param make has the backend make it.
 * @param found makes the result of what a former process has made.
 */
export function creating<R>(
  session: Session,
  request: Request,
  parent: Slot,
  name: string,
  make: () => Awaitable<R>,
  found: (entry: Entry<object>) => Awaitable<R>,
): Awaitable<R> {
  const { journal, backend, nodes } = session;
  if (journal === undefined) return make();
  if (request.happened >= 0) {
    return andThen(backend.lookup(nodes.node(parent), name, request.context), (entry) =>
      entry === undefined ? make() : found(entry),
    );
  }
  const before = lookUp(session, request, parent, name, Expected.MISSING);
  changes(journal, request, parent, name);
  return untilDone(
    journal,
    andThen(before, (named) => {
      if (named === undefined)
        journal.intend(request.uniqueLow, request.uniqueHigh, IntentKind.CREATION, parent, name);
      return make();
    }),
  );
}

/** Makes a name for a node. */
export function linking(
  session: Session,
  request: Request,
  node: Slot,
  parent: Slot,
  name: string,
  make: () => Awaitable<Entry<object>>,
): Awaitable<Entry<object>> {
  const { journal, backend, nodes } = session;
  if (journal === undefined) return make();
  if (request.happened >= 0) {
    return andThen(backend.lookup(nodes.node(parent), name, request.context), (entry) => entry ?? make());
  }
  const before = lookUp(session, request, parent, name, Expected.MISSING);
  changes(journal, request, parent, name);
  return untilDone(
    journal,
    andThen(before, (named) => {
      if (named === undefined) {
        const linked = { slot: node, key: undefined };
        journal.intend(request.uniqueLow, request.uniqueHigh, IntentKind.LINK, parent, name, linked);
      }
      return make();
    }),
  );
}

/** Removes a name. */
export function removing(
  session: Session,
  request: Request,
  parent: Slot,
  name: string,
  remove: () => Awaitable<void>,
): Awaitable<void> {
  const { journal } = session;
  if (journal === undefined) return remove();
  if (request.happened >= 0) return undefined;
  const before = lookUp(session, request, parent, name, Expected.REMOVED);
  journal.names.change(parent, name);
  const { version } = journal.names;
  const removed = untilDone(
    journal,
    andThen(before, (named) => {
      if (!isNamed(named)) return remove();
      beforeLoss(journal, named);
      journal.intend(request.uniqueLow, request.uniqueHigh, IntentKind.REMOVAL, parent, name, named);
      return remove();
    }),
  );
  if (removed === undefined) journal.names.missing(parent, name, version);
  return removed;
}

/** Moves a name. */
export function renaming(
  session: Session,
  request: Request,
  from: Slot,
  name: string,
  to: Slot,
  newName: string,
  flags: number,
  move: () => Awaitable<void>,
): Awaitable<void> {
  const { journal } = session;
  if (journal === undefined) return move();
  if (request.happened >= 0) return undefined;
  const { names } = journal;
  const moving = andThen(lookUp(session, request, from, name, Expected.MOVED), (source) =>
    andThen(lookUp(session, request, to, newName, Expected.REPLACED), (target) => {
      names.change(from, name);
      names.change(to, newName);
      const { version } = names;
      if (!isNamed(source) || target === UNKNOWN) return move();
      // Two names of one file stay as they are, rename(2).
      if (target !== undefined && isSameNode(session, source, target)) return move();
      const replaced = (flags & RenameFlags.EXCHANGE) === 0 ? target : undefined;
      if (replaced !== undefined) beforeLoss(journal, replaced);
      const { uniqueLow, uniqueHigh } = request;
      journal.intend(uniqueLow, uniqueHigh, IntentKind.RENAME, from, name, source, to, newName);
      const moved = move();
      if (moved !== undefined || (flags & ~RenameFlags.NOREPLACE) !== 0) return moved;
      names.missing(from, name, version);
      if (source.slot !== NO_SLOT) names.found(to, newName, source.slot, source.isDirectory, version);
      return moved;
    }),
  );
  return untilDone(journal, moving);
}

/** Sets or removes an extended attribute. @param flags of a setxattr; undefined for a removal. */
export function changingXattr(
  session: Session,
  request: Request,
  node: Slot,
  name: string,
  flags: number | undefined,
  change: () => Awaitable<void>,
): Awaitable<void> {
  const { journal, backend, nodes } = session;
  const isRepeatable = flags !== undefined && (flags & XATTR_CREATE) === 0;
  if (journal === undefined || backend.getxattr === undefined || isRepeatable) return change();
  if (request.happened >= 0) return undefined;
  const { context } = request;
  const before = attempt(() => backend.getxattr!(nodes.node(node), name, context));
  return andThen(before, (value) => {
    const isThere = value !== undefined;
    const kind = flags === undefined ? IntentKind.XATTR_REMOVED : IntentKind.XATTR_SET;
    if (value !== UNKNOWN && isThere === (flags === undefined))
      journal.intend(request.uniqueLow, request.uniqueHigh, kind, node, name);
    return change();
  });
}

/**
 * Writes at the end of a file.
 * @param size bytes to be written.
 * @param gather offers the write to the backend's `gatherWrite`.
 * @param write has the backend write them from that byte on.
 */
export function appending(
  session: Session,
  request: Request,
  journal: SessionJournal,
  file: unknown,
  size: number,
  gather: () => boolean,
  write: (from: number) => Awaitable<number>,
): Awaitable<number> | typeof GATHERED {
  // A process that is killed may have written a part.
  const done = Math.max(request.happened, 0);
  if (done >= size) return size;
  const { gathering } = session;
  const { knownEnds } = journal;
  const slot = session.handles.slot(request.handle);
  const intend = (before: number): void => intendAppend(journal, request, slot, before - done, size);
  let before: Awaitable<number | typeof UNKNOWN> = gathering.endOf(slot);
  const isFirst = before < 0;
  if (isFirst) {
    // What is gathered may be of this file. The backend would not count it.
    if (gathering.count > 0) session.submitGathered();
    // Threads write without this one's knowledge.
    before = session.fileTable === undefined ? knownEnds.of(slot) : -1;
    if (before < 0) before = sizeOf(session, request, slot, file);
  }
  if (typeof before === 'number') {
    intend(before);
    if (done === 0 && gather()) {
      if (isFirst) knownEnds.forget(slot);
      gathering.append(slot, before + size, knownEnds.version);
      return GATHERED;
    }
    knownEnds.forget(slot);
    const written = write(done);
    if (typeof written !== 'number') return andThen(written, (count) => done + count);
    knownEnds.set(slot, before + written);
    return done + written;
  }
  knownEnds.forget(slot);
  return andThen(before, (known) => {
    if (known !== UNKNOWN) intend(known);
    return andThen(write(done), (count) => done + count);
  });
}

function intendAppend(
  journal: SessionJournal,
  { uniqueLow, uniqueHigh }: Request,
  slot: Slot,
  before: number,
  size: number,
): void {
  journal.intendAppend(uniqueLow, uniqueHigh, slot, before, size);
}

/**
 * Gathered appends were noted as if each of those before writes everything. If one has not, says
 * where the others began indeed. To be called before the first is answered.
 */
export function correctAppends({ journal }: Session, batch: Batch): void {
  const { requests, results, count, appends, file, end, version } = batch;
  let before = end;
  for (let i = 0; i < appends; i++) before -= requests[i]!.size;
  let isRight = true;
  for (let i = 0; i < appends; i++) {
    const { size } = requests[i]!;
    if (!isRight && journal !== undefined) intendAppend(journal, requests[i]!, file, before, size);
    const result = results[i];
    if (result !== size) isRight = false;
    before += typeof result === 'number' ? Math.max(result, 0) : 0;
  }
  if (isRight && appends === count && version === journal?.knownEnds.version)
    journal.knownEnds.set(file, end);
}

/**
 * To be called before a request that may change the size of a file otherwise than by an append.
 * @param slot absent: it may be any file.
 */
export function resizing({ journal }: Session, slot?: Slot): void {
  journal?.knownEnds.forget(slot);
}

/** Moves what follows a range of a file, which changes its size. */
export function movingRange(
  session: Session,
  request: Request,
  file: unknown,
  move: () => Awaitable<void>,
): Awaitable<void> {
  const { journal } = session;
  if (journal === undefined) return move();
  if (request.happened >= 0) return undefined;
  const slot = session.handles.slot(request.handle);
  return andThen(sizeOf(session, request, slot, file), (before) => {
    if (before !== UNKNOWN) {
      const { uniqueLow, uniqueHigh } = request;
      journal.intend(uniqueLow, uniqueHigh, IntentKind.MOVE, slot, '', undefined, NO_SLOT, '', before);
    }
    return move();
  });
}

/** The size of an open file. */
function sizeOf(
  { backend, accelerator, nodes }: Session,
  { context }: Request,
  slot: Slot,
  file: unknown,
): Awaitable<number | typeof UNKNOWN> {
  if (accelerator.size !== undefined) {
    try {
      return accelerator.size(file);
    } catch {
      return UNKNOWN;
    }
  }
  return attempt(() => andThen(backend.getattr(nodes.node(slot), file, context), ({ size }) => size ?? 0));
}

function isSameNode({ backend, nodes }: Session, a: Named, b: Named): boolean {
  if (a.slot !== NO_SLOT && b.slot !== NO_SLOT) return a.slot === b.slot;
  const [its, others] = [a, b].map(({ key, slot }) => key ?? keyOf(backend, nodes.node(slot)));
  return its !== undefined && others !== undefined && isSameKey(its, others);
}

/** Whether two keys are of one node. */
function isSameKey(a: NodeKey, b: NodeKey): boolean {
  return a instanceof Uint8Array && b instanceof Uint8Array ? Buffer.compare(a, b) === 0 : a === b;
}

/** A node's key. @returns undefined where that cannot be told, as for a file that is gone. */
function keyOf(backend: Backend, node: object): NodeKey | undefined {
  try {
    return backend.key!(node);
  } catch {
    return undefined;
  }
}

/** The name that a request makes is about to change. */
function changes({ names }: SessionJournal, request: Request, parent: Slot, name: string): void {
  names.change(parent, name);
  request.slot = parent;
  request.child = name;
  request.childVersion = names.version;
}

/** Says so if a change does not end at once. */
function untilDone<R>({ names }: SessionJournal, change: Awaitable<R>): Awaitable<R> {
  if (!(change instanceof Promise)) return change;
  names.wait();
  return change.finally(() => names.end());
}

/**
 * What a name stands for: as guests have lately found, if that is what the request expects, or by a
 * look.
 */
function lookUp(
  session: Session,
  request: Request,
  parent: Slot,
  name: string,
  expected: Expected,
): Awaitable<Named | undefined | typeof UNKNOWN> {
  const { backend, nodes } = session;
  const recent = recentlyNamed(session, parent, name, expected);
  if (recent !== UNKNOWN) return recent;
  let looked: Awaitable<Entry<object> | undefined>;
  try {
    looked = backend.lookup(nodes.node(parent), name, request.context);
  } catch {
    return UNKNOWN;
  }
  if (looked === undefined) return undefined;
  return looked instanceof Promise
    ? looked.then(
        (entry) => namedBy(session, entry),
        (): typeof UNKNOWN => UNKNOWN,
      )
    : namedBy(session, looked);
}

/** What a name stood for lately. @returns UNKNOWN where a look is needed. */
function recentlyNamed(
  { journal, nodes }: Session,
  parent: Slot,
  name: string,
  expected: Expected,
): Named | undefined | typeof UNKNOWN {
  const { names } = journal!;
  const slot = names.find(parent, name);
  if (slot === NO_SLOT)
    return expected === Expected.MISSING || expected === Expected.REPLACED ? undefined : UNKNOWN;
  if (slot === NOT_RECENT || expected === Expected.MISSING) return UNKNOWN;
  const { isDirectory } = names;
  // Whether a file that loses a name has others matters while somebody uses it.
  if (!isDirectory && expected !== Expected.MOVED && journal!.isInUse(slot)) return UNKNOWN;
  return nodes.references(slot) > 0 ? { key: undefined, slot, isDirectory, isLast: true } : UNKNOWN;
}

function namedBy(
  { backend, nodes }: Session,
  entry: Entry<object> | undefined,
): Named | undefined | typeof UNKNOWN {
  if (entry === undefined) return undefined;
  const { node, attributes } = entry;
  const slot = nodes.slotOf(node);
  const isDirectory = (attributes.mode & FileType.MASK) === FileType.DIRECTORY;
  const isLast = isDirectory || (attributes.nlink ?? 1) <= 1;
  if (slot !== NO_SLOT && nodes.references(slot) > 0) return { key: undefined, slot, isDirectory, isLast };
  const key = keyOf(backend, node);
  if (slot === NO_SLOT) nodes.discard(node);
  return key === undefined ? UNKNOWN : { key, slot: NO_SLOT, isDirectory, isLast };
}

/** Calls a method of the backend. @returns UNKNOWN where it fails. */
function attempt<T>(call: () => Awaitable<T>): Awaitable<T | typeof UNKNOWN> {
  try {
    const result = call();
    return result instanceof Promise ? result.catch((): typeof UNKNOWN => UNKNOWN) : result;
  } catch {
    return UNKNOWN;
  }
}

function isNamed(named: Named | undefined | typeof UNKNOWN): named is Named {
  return named !== undefined && named !== UNKNOWN;
}

/**
 * To be called before a name is removed: an open file, or a directory in which somebody stays,
 * would be lost with this process.
 */
function beforeLoss(journal: SessionJournal, { slot, isLast, isDirectory }: Named): void {
  if (slot === NO_SLOT || !isLast) return;
  if (isDirectory) journal.hold(slot);
  else journal.holdOpen(slot);
}
