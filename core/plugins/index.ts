/**
 * Composition: finds and configures backends, opens them to sessions, and joins the transports with
 * the FUSE side. Everything that a person writes (configuration files, options) is checked here
 * against zod schemas, and every mistake in it is a `UsageError` of one line.
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
export {
  confine,
  LAYERS,
  parseCapabilities,
  parseLayers,
  programFolders,
  type Confinement,
  type Layer,
} from './confine.js';
export { askDaemon, ControlSocket, findCommand, type ControlRequest } from './control-socket.js';
export { createContainer, Services, type StartDaemon } from './container.js';
export { Daemon, type DaemonOptions, type ServedExport } from './daemon.js';
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
export {
  commitLayers,
  listDifferences,
  saveLayer,
  withOverlay,
  writeLayer,
  type OfflineLayers,
  type OverlayBackend,
} from './overlay.js';
export { s3Administration } from './s3.js';
export { BackendRegistry, type CreateBackendOptions, type OptionName } from './registry.js';
export { serve, type ServeOptions } from './serve.js';
export { check, describeOptions, parseOption, toFlag, type OptionDescription } from './schema.js';
export { toYaml } from './yaml.js';
