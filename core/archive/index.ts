/**
 * Archive formats: tar, by which memfs is filled and saved, and by which overlay gives its changes
 * away.
 */
export * from './tar.js';
