/**
 * # Accelerators (experimental)
 *
 * A backend is complete without anything in this file: the methods of {@link Backend} carry out
 * every request. An {@link Accelerator} tells the engine of quicker ways to the same results:
 *
 * - **Gathering.** One call for many requests, where that costs less than many calls. With eight or
 *   more requests in sight the engine offers each READ, WRITE, LOOKUP and GETATTR to its `gather…`
 *   method, which puts it aside or declines, and then has all of them carried out by `submit`, in
 *   the same turn of the event loop. A read or write of 32 KiB and more is offered as soon as one
 *   other request waits behind it. READDIRPLUS has up to 32 names looked up together.
 * - **Completions.** `submit` may leave the work to threads of the backend's own. The engine then
 *   looks for the end of it by {@link Completions}, instead of being woken for each.
 * - **Backing.** Files that are files of this host: threads that serve queues make the system calls
 *   of READ, WRITE, GETATTR and LOOKUP themselves.
 * - **Slots.** Nodes that have a place for the engine, which then needs no map of them.
 * - **Copy domain.** Backends that can copy from each other's open files.
 * - **Contents.** What a backend has in memory outlives the process.
 *
 * ## Whose accelerator it is
 *
 * An accelerator goes past the backend's methods. So it must never be found by way of an object
 * that has wrapped them. It is no property of the backend: {@link accelerate} registers it for one
 * object. A spread copy, a `Proxy`, an object with the backend as its prototype, and a class that
 * delegates are other objects, and have none. If a method of the object itself was replaced later,
 * {@link acceleratorOf} finds nothing either. `wrap` keeps an accelerator only where it cannot pass
 * by what is overridden.
 *
 * The engine looks for it once, when the export is opened, after `mount`.
 *
 * This interface may change in any version. The contract in {@link Backend} does not follow it.
 */
import type { Attributes } from './attributes.js';
import type { Awaitable } from './awaitable.js';
import type { Backend, Entry, NodeKey } from './backend.js';
import type { GuestBuffer } from './buffer.js';
import type { Context } from './context.js';
import { backendMethods, type BackendMethod } from './methods.js';

/**
 * A place for the engine in a node: a property that every node of a backend has from the beginning,
 * as -1. See {@link Accelerator.slots}. Nobody else may change it, and no two exports may share the
 * nodes.
 */
export const engineSlot: unique symbol = Symbol('engine slot');

/**
 * The result of a request that was gathered: bytes, attributes, an entry or nothing, or minus an
 * errno.
 */
export type Gathered<N> = number | Attributes | Entry<N> | undefined;

/**
 * What statx(2) tells of a file, without following it, that no other file of the host has: 32 bits
 * each.
 */
export interface StatIdentity {
  /** Mount id (`stx_mnt_id`). */
  readonly mount: number;
  /** Low half of the inode number. */
  readonly inoLow: number;
  /** High half of the inode number. */
  readonly inoHigh: number;
  /**
   * Time of birth. Without it the rest is the file's own as long as the descriptor that comes with
   * it is open.
   */
  readonly birth?: { readonly seconds: number; readonly nanoseconds: number } | undefined;
}

/** The file of the host that is behind a node or an open file. */
export interface Backing {
  /**
   * A descriptor of it, or -1. It must be closed by `closeBacking`, since other threads may be
   * using it.
   */
  readonly fd: number;
  /** Whether what fstat(2) tells of it is what `getattr` returns, but for the time of birth. */
  readonly attributes: boolean;
  /**
   * Flags of preadv2(2), such as RWF_NOWAIT, with which a read must be made that may wait
   * otherwise.
   */
  readonly readFlags: number;
  /**
   * Whether `write` comes to pwrite(2), made without CAP_FSETID where it is to clear set-id bits.
   */
  readonly writes: boolean;
  /**
   * Of a directory: whether `lookup` of a name in it comes to statx(2). ENOENT is then a missing
   * name, and a file whose identity is that of a node is that node, its attributes what statx
   * tells.
   */
  readonly names: boolean;
  /** Of a node, where there is one. */
  readonly identity?: StatIdentity | undefined;
}

/**
 * How the engine learns of what a backend carries out beside its thread, without a turn of the
 * event loop for each. The backend calls what {@link Accelerator.submit} was given in `collect`,
 * and in a turn of the event loop of its own where nobody attends.
 */
export interface Completions {
  /** Reads and writes that are not ended yet. */
  readonly pending: number;
  /** Whether `collect` would end some. */
  readonly ready: boolean;
  /** Ends what is complete. Never throws. */
  collect(): void;
  /** From now until `rest` the engine collects by itself: nothing needs to wake the event loop. */
  attend(): void;
  /**
   * The engine may sleep from now on.
   * @returns whether something is ready already, of which nothing else would tell.
   */
  rest(): boolean;
}

/**
 * Nodes on their way to another host, where their keys are not enough. Used in the place of `save`,
 * `restore` and `resolve` when one guest of several moves.
 */
export interface NodeMigration<N extends object = object> {
  /**
   * What {@link arrive} needs on the other host to find these nodes by their keys. Other nodes need
   * not be found.
   */
  depart(nodes: readonly N[]): Awaitable<Uint8Array>;
  /**
   * Reads what `depart` gave. It may come from somebody who wishes harm.
   * @returns finds a node by the key that it had there; the node is then in use, as after `lookup`.
   * It throws ENOENT if the node had no name any more there, and ESTALE if it is not found here.
   * @throws EINVAL for other bytes.
   */
  arrive(state: Uint8Array): (key: NodeKey) => Awaitable<N>;
}

/**
 * How file handles of a guest that moves lead to nodes that no guest knows any more, where their
 * keys are of one host.
 */
export interface Elsewhere<N extends object = object> {
  /** Called once, before `mount`, where forgotten nodes are remembered. */
  begin?(): void;
  /**
   * What is known of a node that is forgotten now, beside its key and its trace, for {@link place}.
   * Never throws.
   */
  seen?(node: N): string | undefined;
  /**
   * Where a node is, for {@link find} on another host.
   * @param key one that this very backend gave out; `retrace` was called.
   * @param seen what {@link seen} told.
   * @returns undefined, or throws an FsError, where it cannot be found.
   */
  place(key: NodeKey, seen: string | undefined): Awaitable<string | undefined>;
  /**
   * Finds the node at a place, which may come from somebody who wishes harm. It is then in use, as
   * after `lookup`.
   * @throws ESTALE if it is not found.
   */
  find(place: string): Awaitable<N>;
}

/**
 * All that a backend has, on its way to another host with the only guest that uses it. Used in the
 * place of `save` and `restore` where these leave out what only this host has.
 */
export interface Transfer {
  /** @throws Error that says why it cannot go. */
  save(): Awaitable<Uint8Array>;
  /**
   * Takes what `save` gave, which may come from somebody who wishes harm. Nobody uses the backend.
   * `resolve` then finds the nodes of the guest.
   * @throws Error that says why it cannot come. Nothing of it stays then.
   */
  restore(state: Uint8Array): Awaitable<void>;
  /** The guest does not come after all: nothing of what `restore` took stays. */
  undo(): Awaitable<void>;
}

/** Memory that outlives this process, because somebody else holds it too. */
export interface LastingMemory {
  /** Its length. Only what was written takes memory. */
  readonly bytes: number;
  /**
   * Maps a part, for this process.
   * @param offset in bytes, a multiple of 4096.
   * @param length bytes, 1 to 2^30.
   * @throws RangeError for a part beyond the end; SystemError if there is no room for it.
   */
  map(offset: number, length: number): { readonly bytes: Uint8Array; close(): void };
  /** Gives back what backs the whole pages of a range. They read as zeros then. */
  discard(start: number, end: number): void;
}

/** Keeps what a backend has in memory that outlives the process. */
export interface LastingContents {
  /** Bytes of memory that it needs at most. */
  readonly bytes: number;
  /**
   * Has everything kept from here on, with what there is already. Called once, before `mount`.
   * @param memory zeroed.
   * @returns false if that is not possible.
   */
  begin(memory: LastingMemory): boolean;
  /**
   * In the place of `begin`: goes on with what a process has left that was killed. What there is
   * already goes.
   * @throws RangeError for memory in which nothing was kept, or which contradicts itself.
   */
  recover(memory: LastingMemory): void;
  /** All nodes were found that guests know: files without a name that none of them uses may go. */
  recovered(): void;
}

/** Quicker ways to what a backend's methods do. Every part is optional. Experimental. */
export interface Accelerator<N extends object = object, F = unknown> {
  /**
   * Every node, the root included, has the property {@link engineSlot}, which is -1 before the
   * engine has seen it. Default false.
   */
  readonly slots?: boolean | undefined;
  /**
   * Open files take a descriptor of this process each: all guests together then have no more of
   * them than leaves some for connections. Default false.
   */
  readonly descriptors?: boolean | undefined;
  /**
   * Backends with the same symbol take each other's open files in `copyFileRange`, because those
   * are descriptors of the host, or the like. Absent: only their own. Used by backends that are
   * made of others.
   */
  readonly copyDomain?: symbol | undefined;

  /**
   * Offers a read that may be carried out together with others. What it takes is carried out by
   * {@link submit}, in the same turn of the event loop. Until then nothing is called but the
   * `gather…` methods, `read`, `write`, `getattr` and `lookup`, and buffer and context stay as they
   * are.
   * @returns whether the backend has put it aside; if not, `read` follows.
   */
  gatherRead?(node: N, file: F, buffer: GuestBuffer, offset: number, context: Context): boolean;
  /** As {@link gatherRead}, for `write`. */
  gatherWrite?(
    node: N,
    file: F,
    buffer: GuestBuffer,
    offset: number,
    flags: number,
    context: Context,
  ): boolean;
  /** As {@link gatherRead}, for `lookup`. */
  gatherLookup?(parent: N, name: string, context: Context): boolean;
  /** As {@link gatherRead}, for `getattr`. */
  gatherGetattr?(node: N, file: F | undefined, context: Context): boolean;
  /**
   * Carries out what was gathered. Required beside any of the `gather…` methods. Never called with
   * nothing gathered. Where it throws, all of them fail.
   * @param results to be filled: `results[i]` is what the i-th method would have returned, an
   * object of its own for each; or where it would have thrown, minus the errno.
   * @param later given where other requests wait, to be served meanwhile. A backend with
   * {@link completions} may keep it, return true, and call it once when `results` are filled, not
   * before it has returned. Files, nodes, buffers and contexts stay until then.
   * @returns true if `later` will be called.
   */
  submit?(results: Awaitable<Gathered<N>>[], later?: () => void): boolean;
  /** Required where {@link submit} ever returns true. */
  readonly completions?: Completions | undefined;
  /**
   * The file of the host by which `getattr`, or `read` and `write` of an open file, are plain
   * system calls: threads that serve queues then make these without asking the backend. Asked where
   * such a thread had a request that it could not serve. The answer holds until the descriptor is
   * closed, and must not change meanwhile.
   * @param file an open file, for `read` and `write`; without one, for `getattr`.
   * @returns nothing where there is more to it.
   */
  backing?(node: N, file: F | undefined): Backing | undefined;
  /**
   * The size in bytes of an open file, as `getattr` tells it, where that alone costs less.
   * @throws FsError
   */
  size?(file: F): number;
  /**
   * The descriptor of an open file, which a daemon that takes this one's place on the same host can
   * take over by {@link adoptNode} and {@link adoptFile}. So a file that was removed stays open.
   */
  held?(file: F): number;
  /**
   * Finds a node by a key that this very backend gave out, in this process or one that was killed,
   * on the same host. Unlike `resolve` it need not prove that the guest may have the node, and has
   * nothing of what `save` would have told. Without it, and where the backend has a `save`, guests
   * do not survive that.
   * @throws ESTALE if the file is gone.
   */
  recover?(key: NodeKey): Awaitable<N>;
  /**
   * What {@link recover} needs to know of a node beside its key, such as where it is. Text that
   * means something to this backend only. Kept for every node that the engine knows. Never throws.
   */
  trace?(node: N): string;
  /** Whether `recover` finds nodes without their traces, too, which then only make it surer. */
  readonly tracesHelp?: boolean | undefined;
  /**
   * Why guests could not go on after this process was killed, where a keeper is refused for that.
   */
  readonly unkept?: string | undefined;
  /**
   * Has `changed` called when a node has another {@link trace}, and before a change after which the
   * former one would lead nowhere. Replaces an earlier `changed`. Required beside `trace`.
   */
  watchTraces?(changed: (node: N) => void): void;
  /**
   * Takes traces by key, before {@link recover}, in the place of those before: of the process that
   * was killed, or of nodes that were forgotten. The map may change later.
   */
  retrace?(traces: ReadonlyMap<NodeKey, string>): void;
  /** Beside {@link recover}: all nodes were found that guests know. Never throws. */
  recovered?(): void;
  /**
   * This process ends, and another on this host goes on with what guests have: what they release
   * from now on they have still, and `unmount` leaves everything to that other. It finds nodes by
   * {@link retrace}, {@link recover} and {@link recovered}, so that `save`, `restore` and `resolve`
   * are not used for it. Beside `recover` and `trace`. Never throws.
   */
  leave?(): void;
  /**
   * A descriptor of a node's file, which stays the backend's, and may be closed by the next call. A
   * copy of it keeps a file that loses its last name, so that `recover` finds it.
   * @returns -1 if there is none; undefined where the file stays without.
   */
  descriptor?(node: N): number | undefined;
  /** Beside {@link recover}, where what it finds is in this process's memory. */
  readonly contents?: LastingContents | undefined;
  /** Takes all along to another host. Absent: `save` and `restore` do it. */
  readonly transfer?: Transfer | undefined;
  /** How nodes are found on another host. Absent: `save`, `restore` and `resolve` do it. */
  readonly migration?: NodeMigration<N> | undefined;
  /** How forgotten nodes are found on another host. Absent: as here, if all goes along. */
  readonly elsewhere?: Elsewhere<N> | undefined;
  /**
   * Finds a node by a key that cannot be resolved otherwise, through an open descriptor of its
   * file. The descriptor stays the caller's. The node is then in use, as after `lookup`.
   * @throws ESTALE if the descriptor's file is not the one that the key names.
   */
  adoptNode?(key: NodeKey, fd: number): N;
  /**
   * Makes an open file of a descriptor, which the backend owns from here on.
   * @param flags as `open` gets them.
   * @throws ESTALE if the descriptor is not of this node.
   */
  adoptFile?(node: N, fd: number, flags: number): F;
}

/** An accelerator, and the methods that it stands for. */
interface Registered {
  readonly accelerator: Accelerator;
  readonly methods: { readonly [method in BackendMethod]?: unknown };
}

const registered = new WeakMap<object, Registered>();

function methodsOf(backend: object): Registered['methods'] {
  return Object.fromEntries(backendMethods.map((name) => [name, Reflect.get(backend, name) as unknown]));
}

/**
 * Gives a backend an accelerator, in place of the one that it had. Call it where the object is
 * complete: it stands for the methods that the object has then.
 * @param implementation whose methods it stands for. A constructor gives its own class's prototype
 * here, so that a subclass which overrides a method is not passed by. Default: the backend itself.
 * @returns the backend.
 */
export function accelerate<N extends object, F, B extends Backend<N, F>>(
  backend: B & Backend<N, F>,
  accelerator: Accelerator<N, F>,
  implementation: object = backend,
): B {
  registered.set(backend, { accelerator, methods: methodsOf(implementation) });
  return backend;
}

/**
 * The accelerator of this very object.
 * @returns nothing where it has none, or where a method is another than the accelerator stands for.
 */
export function acceleratorOf<N extends object, F>(backend: Backend<N, F>): Accelerator<N, F> | undefined {
  const found = registered.get(backend);
  if (found === undefined) return undefined;
  const { accelerator, methods } = found;
  const isOwn = backendMethods.every((name) => backend[name] === methods[name]);
  return isOwn ? (accelerator as Accelerator<N, F>) : undefined;
}
