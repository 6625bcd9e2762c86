/**
 * The contract between the engine and a file system: the interface that a backend implements, the
 * values that pass between them, and the plugin shape by which a backend is found and configured.
 * This room uses nothing else in the project; a backend uses nothing but this room.
 */
export * from './attributes.js';
export * from './awaitable.js';
export * from './backend.js';
export * from './buffer.js';
export * from './context.js';
export * from './errors.js';
export * from './flags.js';
export * from './methods.js';
export * from './host.js';
export * from './names.js';
export * from './plugin.js';
export * from './read-only.js';
export * from './wrap.js';
