/**
 * Sandboxes: throw-away virtual machines whose files the host owns. {@link sandbox} starts one.
 *
 * - `sandbox.ts`: a sandbox from start to end, with `options.ts`. `base.ts`: what it begins with:
 *   a directory, an image, or a snapshot of another one. `users.ts`: its users by name.
 *   `path-rules.ts`: what its commands do not see, or not change. `audit.ts`: a log of what they
 *   read and change. `watch.ts`: who hears of changes;
 *   `merge.ts`: what a fork has changed, for another one. `differences.ts`: what was there and what
 *   is there, `patch.ts`: the same as text.
 * - `image/`: images of containers. `store.ts` has their files, `documents.ts` the forms of their
 *   JSON, `digest.ts` digests, `compression.ts` what layers are packed by; `image.ts` reads them,
 *   `commit.ts` writes them. `registry/`: those of registries. `reference.ts` is how they are
 *   named, `client.ts` the HTTP, with the credentials of `credentials.ts`; `registry-store.ts`
 *   reads an image by it, `blob-cache.ts` keeps what was read, and `push.ts` writes one.
 * - `command.ts`: a command that runs in it. `agent.ts`: the scripts in the guest that start
 *   commands.
 * - `control-share.ts`, `pipes.ts`: how host and guest talk, which is a file system, too.
 *   `telnet.ts`: terminals.
 * - `network/`: what of the network it reaches, through a third share. `proxy.ts` decides and
 *   passes on, `guest-connection.ts` is one connection, `internal-addresses.ts` says which
 *   addresses are not of the public network.
 */
export { SandboxSnapshot, type Base } from './base.js';
export { SandboxCommand } from './command.js';
export type { TerminalSize } from './agent.js';
export type { SandboxMount, SandboxOptions, SpawnOptions } from './options.js';
export { type Aspect, FileVersion, type SandboxChange, SandboxDifference } from './differences.js';
export { sandbox, Sandbox, type ExecResult, type StreamOptions, type Terminal } from './sandbox.js';
export type { FileEvent } from './watch.js';
export type { NetworkOptions } from './network/proxy.js';
