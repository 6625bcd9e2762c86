/**
 * virtiofs-kit's public API.
 *
 * - To write a backend: `Backend`, `definePlugin`, `FsError` and the rest of the contract
 *   (`core/backend`).
 * - To test it against the contract: {@link checkBackend}, and `virtiofs-kit/contract` for test
 *   runners.
 * - To serve from one's own program: {@link serve}, `Daemon` with `BackendRegistry`, or
 *   `MountedExport` on this host.
 * - To try an export in a throw-away Linux guest: `Guest`.
 */
export * from './backend/index.js';
export { cases as contractCases, checkBackend } from './contract/index.js';
export type { CaseResult, CheckOptions, CheckReport, ContractCase } from './contract/index.js';
export { Guest, GuestError } from './guest/index.js';
export type { Accelerator, GuestOptions, GuestShare, RunOptions, RunResult } from './guest/index.js';
export {
  BackendRegistry,
  createContainer,
  createLogger,
  Daemon,
  MountedExport,
  Services,
  parseConfig,
  readConfig,
  serve,
} from './plugins/index.js';
export type {
  BackendSource,
  Events,
  ExportEvent,
  ExportEvents,
  Config,
  DaemonOptions,
  HostMountOptions,
  LogConfig,
  ServedExport,
  ServeOptions,
} from './plugins/index.js';
