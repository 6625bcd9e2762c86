/**
 * The keeper: a process between the virtual machine monitor and the engine, the process that serves
 * the guests. It outlives engines, so that guests do. It holds the descriptors of mounts on this
 * host likewise. Upstream it is the back-end that the monitor
 * sees, downstream the front-end of each engine in turn. It never maps a guest's memory and never
 * sees a FUSE request: kicks and interrupts go straight to the engine.
 *
 * - `control.ts`: messages with descriptors between keeper and engine.
 * - `messages.ts`: which messages there are.
 * - `setup.ts`: what a front-end has set, to be said again to the next engine.
 * - `relay.ts`: one front-end, from its connection to its end.
 * - `engine-process.ts`: an engine's process.
 * - `keeper.ts`: the sockets, the engines, and the change from one to the next.
 * - `held-descriptors.ts`: descriptors that an engine hands over, and the keeper holds.
 * - `engine-end.ts`: the engine's end of the control connection.
 * - `inherited.ts`: how an engine knows that it has a keeper.
 */
export { FIRST_INHERITED } from './engine-process.js';
export { Keeper, type HeldMount, type KeptSocket, type KeeperOptions } from './keeper.js';
export {
  KeeperGone,
  KeptEngine,
  type Beginning,
  type GivenConnection,
  type GivenMount,
  type HandedOver,
  type KeptState,
} from './engine-end.js';
export { keeperDescriptor } from './inherited.js';
export type { Connection } from './messages.js';
