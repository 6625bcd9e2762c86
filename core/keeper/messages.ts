import * as z from 'zod';

/** Which saved session belongs to a connection, and where its rings stopped. */
const connection = z.strictObject({
  id: z.int().nonnegative(),
  /** Number of the socket, in the order of the configuration. */
  socket: z.int().nonnegative(),
  export: z.int().nonnegative(),
  session: z.int().nonnegative(),
  bases: z.array(z.int().min(0).max(0xffff)),
});

/** What an engine's process says to the keeper. */
export const engineMessage = z.discriminatedUnion('type', [
  /** Its program is loaded, and it waits for {@link Begin}. */
  z.strictObject({ type: z.literal('waiting') }),
  /**
   * Its backends are mounted, and it takes connections. The descriptors: memory in which it keeps
   * the sessions of each export. Of the connections that the keeper has, it goes on with these.
   */
  z.strictObject({
    type: z.literal('serving'),
    connections: z.array(z.int().nonnegative()),
    /** Numbers of the descriptors that must be held further on. */
    held: z.array(z.int().positive()),
    /** Of each export: whether its backend has no way to change anything. */
    readOnly: z.array(z.boolean()),
  }),
  /** It serves a mount from here on, and keeps its session. */
  z.strictObject({ type: z.literal('begun'), id: z.int().nonnegative() }),
  /** The kernel has unmounted a mount, or ended it. */
  z.strictObject({ type: z.literal('unmounted'), id: z.int().nonnegative() }),
  /**
   * It has stopped. The descriptors: the saved states of its exports, in memfds, then those of open
   * files.
   */
  z.strictObject({
    type: z.literal('handedOver'),
    exports: z.int().nonnegative(),
    connections: z.array(connection),
  }),
  /** It was asked to end, by somebody else than the keeper. */
  z.strictObject({ type: z.literal('leaving') }),
  /** It cannot hand over, and goes on serving. */
  z.strictObject({ type: z.literal('refused'), reason: z.string() }),
]);

/** What the keeper says to an engine's process. */
export const keeperMessage = z.discriminatedUnion('type', [
  /**
   * It shall mount its backends. The descriptors: the connection over which it hands descriptors
   * over, then those of `handedOver`; or, with `journals`, those of `serving`, which an engine has
   * left that was killed.
   */
  z.strictObject({
    type: z.literal('begin'),
    exports: z.int().nonnegative(),
    journals: z.int().nonnegative(),
    connections: z.array(connection),
    /** The highest number of a descriptor that is held. */
    lastHeld: z.int().nonnegative(),
  }),
  /** A front-end; the descriptor is the connection. It goes on with the saved session of its id. */
  z.strictObject({
    type: z.literal('connection'),
    id: z.int().nonnegative(),
    socket: z.int().nonnegative(),
  }),
  /**
   * A mount of this host; the descriptors are its open `/dev/fuse`, and memory for its requests. It
   * goes on with the saved session of its id.
   */
  z.strictObject({
    type: z.literal('mount'),
    id: z.int().nonnegative(),
    socket: z.int().nonnegative(),
  }),
  /** It shall stop, save and end. */
  z.strictObject({ type: z.literal('handOver') }),
]);

export type Connection = z.infer<typeof connection>;
export type EngineMessage = z.infer<typeof engineMessage>;
export type ServingMessage = Extract<EngineMessage, { type: 'serving' }>;
export type HandedOverMessage = Extract<EngineMessage, { type: 'handedOver' }>;
export type KeeperMessage = z.infer<typeof keeperMessage>;
