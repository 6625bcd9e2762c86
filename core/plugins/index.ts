/**
 * Composition: finds and configures backends (`registry.ts`, `exports.ts`), and joins transports
 * and FUSE sessions to a daemon (`daemon.ts`), a mount on this host (`mount.ts`) or one call
 * (`serve.ts`). What people write (configuration files, options) is checked against zod schemas
 * (`config.ts`, `schema.ts`); a mistake is a `UsageError` of one line. Beside these: the
 * confinement of the process (`confine.ts`), the control socket of a daemon (`control-socket.ts`),
 * and the log.
 */
export {
  cacheSchema,
  configSchema,
  confineSchema,
  exportSchema,
  limitsSchema,
  logSchema,
  parseConfig,
  readConfig,
} from './config.js';
export type { Config, ConfineConfig, ExportConfig, LogConfig } from './config.js';
export { confine, mustBeConfined, programFolders, type Confined, type Confinement } from './confine.js';
export { LAYERS, parseCapabilities, parseLayers, type Layer } from './confinement-options.js';
export { askDaemon, ControlSocket } from './control-socket.js';
export { createContainer, Services, type StartDaemon } from './container.js';
export { groupId, Daemon, type DaemonOptions, type ServedExport } from './daemon.js';
export { inlineMore } from './inlining.js';
export {
  isBackend,
  openExport,
  type BackendSource,
  type ExportSettings,
  type OpenExportOptions,
} from './exports.js';
export { createLogger } from './log.js';
export { MountedExport, type HostMountOptions } from './mount.js';
export { closestWord, suggestion } from './suggestion.js';
export { offlineEnvironment } from './offline.js';
export { BackendRegistry, type CreateBackendOptions, type OptionName } from './registry.js';
export { serve, type ServeOptions } from './serve.js';
export { check, describeOptions, parseOption, toFlag, type OptionDescription } from './schema.js';
export { toYaml } from './yaml.js';
