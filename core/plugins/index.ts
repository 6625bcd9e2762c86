/**
 * Composition: finds and configures backends, and joins transports and FUSE sessions.
 *
 * - `daemon.ts`: exports on vhost-user sockets, and mounts that a keeper holds. `mount.ts`: an
 *   export mounted on this host. `kept-mount.ts`: the same, for a keeper. `mount-notices.ts`: what
 *   mounts are told of changes. `serve.ts`: one call that serves one backend.
 * - `lasting-memory.ts`: memory in which guests' sessions, and what backends have, outlive the
 *   process.
 * - `open-export.ts`, `backend-source.ts`: from a backend's name and options to an open export.
 *   `served-export.ts`, `checked-exports.ts`: exports with all their settings. `registry.ts`: which
 *   backends there are.
 * - `options/`: the configuration. `config-schema.ts` has every option of the file, as zod schemas;
 *   `option-descriptions.ts` makes flags, help texts and errors of one line of a schema, with
 *   `suggestion.ts` for misspelt words and `yaml.ts` for files. `confinement-options.ts`: words for
 *   layers and capabilities.
 * - `inherited-socket.ts`: sockets that the parent or a service manager made.
 * - `events.ts`: tells programs what happens. `figures.ts`: collects what monitoring shows of an
 *   export.
 * - `confine.ts`: the confinement of the process, by a program that executes another one
 *   (`confinement-claim.ts`). `backend-needs.ts`, `program-folders.ts`: what is left to it.
 * - `export-changes.ts`, `reload.ts`: another configuration while a daemon serves.
 * - `control-socket.ts`: the socket on which a daemon takes commands. `offline-commands.ts`: what
 *   commands that run without a daemon may use.
 * - `logger.ts`, `rate-limited-log.ts`: the log, and the part of it that guests can cause.
 * - `service-container.ts`: how the program's services are wired, and replaced.
 * - `process-arguments.ts`, `v8-inlining.ts`: the command line as bytes; settings of V8.
 */
export { Events, type ExportEvent, type ExportEvents } from './events.js';
export {
  accessLogSchema,
  cacheSchema,
  configSchema,
  confineSchema,
  exportSchema,
  limitsSchema,
  rateSchema,
  logSchema,
  parseConfig,
  readConfig,
} from './options/config-schema.js';
export type {
  AccessLogConfig,
  Config,
  ConfineConfig,
  ExportConfig,
  LogConfig,
} from './options/config-schema.js';
export { mustBeConfined, type Confined, type Confinement } from './confine.js';
export { programFolders } from './program-folders.js';
export { LAYERS, parseCapabilities, parseLayers, type Layer } from './options/confinement-options.js';
export { askDaemon, ControlSocket, DAEMON_ITSELF } from './control-socket.js';
export { createContainer, Services, type StartDaemon } from './service-container.js';
export { groupId, Daemon, type DaemonOptions } from './daemon.js';
export type { ServedExport } from './served-export.js';
export { compileLater, inlineMore } from './v8-inlining.js';
export { isBackend, type BackendSource } from './backend-source.js';
export { openExport, type ExportSettings, type OpenExportOptions } from './open-export.js';
export { createLogger } from './logger.js';
export { MountedExport, type HostMountOptions } from './mount.js';
export { holdMount, keptMountPoint, type KeptMountOptions } from './kept-mount.js';
export { closestWord, suggestion } from './options/suggestion.js';
export { offlineEnvironment } from './offline-commands.js';
export { BackendRegistry, type CreateBackendOptions, type OptionName } from './registry.js';
export { serve, type ServeOptions } from './serve.js';
export {
  check,
  describeOptions,
  parseOption,
  toFlag,
  type OptionDescription,
} from './options/option-descriptions.js';
export { toYaml } from './options/yaml.js';
