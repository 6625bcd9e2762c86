import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import * as z from 'zod';
import { UsageError } from '../../backend/index.js';
import { sizeOption } from '../../../backends/memfs/options.js';
import { filterSchema } from '../../trace/filter.js';
import { LAYERS, parseCapabilities } from './confinement-options.js';
import { check } from './option-descriptions.js';
import { parseYaml } from './yaml.js';

const count = z.number().int().min(1);
const seconds = z.number().min(0);

/** A backend: its kind and options. */
const backendSpec = z
  .looseObject(
    { type: z.string().describe("a built-in's name, an npm package, or a path to a module") },
    'must have a type',
  )
  .describe('kind and options');

/** How guests may cache; see `CachePolicy`. */
export const cacheSchema = z.strictObject({
  entryTimeout: seconds.optional().describe('seconds for which a guest resolves a name without asking'),
  negativeTimeout: seconds.optional().describe('seconds for which a guest takes a missing name as missing'),
  attributeTimeout: seconds.optional().describe('seconds for which a guest shows attributes without asking'),
  data: z
    .enum(['auto', 'always', 'never'])
    .optional()
    .describe('file content in guests: dropped at open when changed, kept, or not cached'),
  writeback: z.boolean().optional().describe('guests collect writes and send them later'),
});

/** Limits on the state that guests can make an export keep. */
export const limitsSchema = z.strictObject({
  nodes: count
    .max(2 ** 30)
    .optional()
    .describe('nodes known to all guests; beyond, ENFILE'),
  handles: count
    .max(2 ** 30)
    .optional()
    .describe('open files and directories of one guest; beyond, ENFILE'),
  remembered: z
    .number()
    .int()
    .min(0)
    .max(1_000_000)
    .optional()
    .describe(
      'forgotten nodes that are still found by file handles (open_by_handle_at, NFS), up to 1.5 KiB of memory each; default: 0',
    ),
});

const bytesPerSecond = sizeOption.optional().meta({ placeholder: 'SIZE', unit: 'bytes' });
const operationsPerSecond = z.number().positive().optional();

/** How much guests may do in a second. What comes too early waits. */
export const rateSchema = z.strictObject({
  bytesPerSecond: bytesPerSecond.describe('bytes that all guests together read and write'),
  operationsPerSecond: operationsPerSecond.describe('requests of all guests together'),
  guestBytesPerSecond: bytesPerSecond.describe('bytes that each guest reads and writes'),
  guestOperationsPerSecond: operationsPerSecond.describe('requests of each guest'),
});

/** An export: one socket with one tag. */
export const exportSchema = z.strictObject({
  tag: z
    .string()
    .refine((tag) => tag !== '' && Buffer.byteLength(tag) <= 36 && !tag.includes('\0'), '1 to 36 bytes')
    .default('virtiofs')
    .describe('name by which guests mount it, 1 to 36 bytes')
    .meta({ placeholder: 'NAME' }),
  socket: z
    .string()
    .min(1)
    .optional()
    .describe('path of the vhost-user socket to make')
    .meta({ placeholder: 'PATH' }),
  fd: z.number().int().min(0).optional().describe('inherited descriptor of a socket, instead of a path'),
  fdName: z
    .string()
    .min(1)
    .optional()
    .describe("name of a systemd socket unit's descriptor (FileDescriptorName=), instead of a path")
    .meta({ placeholder: 'NAME' }),
  socketMode: z
    .string()
    .regex(/^[0-7]{3,4}$/, 'must be octal, such as "0660"')
    .optional()
    .describe("permissions of the socket file, in octal; default: the umask's")
    .meta({ placeholder: 'MODE' }),
  socketGroup: z
    .string()
    .optional()
    .describe('group of the socket file, by name or number')
    .meta({ placeholder: 'GROUP' }),
  backend: z
    .union([z.string(), backendSpec], 'must be a name under backends, or have a type')
    .describe('a name under backends, or a backend of its own'),
  readOnly: z.boolean().default(false).describe('refuse every change'),
  watch: z
    .boolean()
    .default(false)
    .describe('tell guests, and mounts on this host, what others change behind their back'),
  locks: z
    .enum(['shared', 'local'])
    .optional()
    .describe(
      'flock and record locks hold between guests, or within each guest alone; default: shared, and local where maxConnections is 1',
    ),
  requestQueues: count.max(254).default(2).describe('request queues offered to the guest'),
  maxConnections: count.default(16).describe('guests at a time'),
  exitOnDisconnect: z
    .boolean()
    .default(false)
    .describe('end when the last guest has gone, instead of waiting for the next'),
  pollTime: z
    .number()
    .int()
    .min(0)
    .max(1000)
    .default(20)
    .describe('microseconds that queues are watched for a next request before the daemon sleeps; 0: never')
    .meta({ placeholder: 'US' }),
  queueThreads: z
    .number()
    .int()
    .min(0)
    .max(16)
    .default(0)
    .describe(
      'threads that serve request queues beside the main one, for guests with several of them, or several guests',
    )
    .meta({ placeholder: 'N' }),
  migrationOnError: z
    .enum(['abort', 'guest-error'])
    .default('abort')
    .describe(
      'what becomes of a guest that migrates here if some of its files cannot be found: it stays where it is, or comes and gets errors for these',
    ),
  onReset: z
    .enum(['end', 'keep'])
    .default('end')
    .describe(
      'what becomes of open files and locks when the device is reset: they end, or stay until the guest mounts anew, for a driver that goes on with them',
    ),
  isolate: z
    .enum(['none', 'process'])
    .default('none')
    .describe(
      'process: serve this export by a process of its own, so that what holds or ends that does so for the guests of this export alone',
    ),
  cache: cacheSchema.default({}).describe("how guests may cache; default: the backend's own policy"),
  limits: limitsSchema.default({}).describe('bounds on what guests can make this export hold'),
  rate: rateSchema.optional().describe('how much guests may do in a second; not with queueThreads'),
});

/** What the daemon logs, and how. */
export const logSchema = z.strictObject({
  level: z
    .enum(['debug', 'info', 'warn', 'error', 'silent'])
    .default('info')
    .describe('least severe that is written'),
  format: z
    .enum(['auto', 'text', 'json'])
    .default('auto')
    .describe('lines for people, or JSON; auto: text on a terminal'),
});

/** Where each request has its line, and which ones do. */
export const accessLogSchema = filterSchema.extend({
  file: z
    .string()
    .min(1)
    .describe('path of a file or pipe to which lines are added; - for standard output')
    .meta({ placeholder: 'FILE' }),
});

/** How the daemon confines itself before it serves; see `confine`. */
export const confineSchema = z.strictObject({
  layers: z
    .array(z.enum(LAYERS))
    .default([...LAYERS])
    .describe('layers to lock itself in by; default: all'),
  missingLayers: z
    .enum(['error', 'warn'])
    .default('error')
    .describe('what becomes of a layer that cannot be had: no start, or a warning'),
  seccompAction: z
    .enum(['errno', 'log', 'trap', 'kill'])
    .default('errno')
    .describe('what becomes of a refused system call'),
  modcaps: z
    .string()
    .refine(areCapabilities, 'must be like +sys_admin:-chown')
    .optional()
    .describe('capabilities to keep or to give up beside the usual: +sys_admin:-mknod'),
});

function areCapabilities(text: string): boolean {
  try {
    parseCapabilities(text);
    return true;
  } catch {
    return false;
  }
}

/** A configuration file. */
export const configSchema = z.strictObject({
  log: logSchema.prefault({}).describe('what is logged, on standard error'),
  confine: confineSchema.prefault({}).describe('what the daemon locks itself in by'),
  backends: z
    .record(z.string(), backendSpec)
    .default({})
    .describe('backends by name, for exports that share one'),
  metrics: z
    .string()
    .optional()
    .describe('serve figures to Prometheus there: PORT or ADDRESS:PORT on loopback, or unix:PATH'),
  accessLog: accessLogSchema.optional().describe('a line for each request that guests make'),
  keep: z
    .boolean()
    .default(false)
    .describe('a keeper holds the guests, so that the engine can be replaced under them'),
  exports: z
    .array(exportSchema)
    .min(1, 'needs at least one export')
    .describe('what is served, each on its own socket'),
});

export type ExportConfig = z.output<typeof exportSchema>;
export type AccessLogConfig = z.output<typeof accessLogSchema>;
/** What of the log is configured: its level and its format. */
export type LogConfig = z.output<typeof logSchema>;
export type ConfineConfig = z.output<typeof confineSchema>;
/** A configuration file, checked and with its defaults (docs/config.md). */
export type Config = z.output<typeof configSchema>;

/** A configuration with the folder of its file. */
export interface ReadConfig extends Config {
  readonly folder: string;
}

/**
 * Reads a configuration file (YAML, or JSON, which is YAML).
 * Relative paths of sockets and modules in it are relative to its folder.
 * @throws UsageError for every mistake in it.
 */
export function readConfig(path: string): ReadConfig {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(
      `--config ${path}: ${(error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : (error as Error).message}`,
    );
  }
  return configOf(text, path);
}

/** The configuration of a file's text, as {@link readConfig} has it. */
export function configOf(text: string, path: string): ReadConfig {
  const folder = dirname(resolve(path));
  const config = parseConfig(parseYaml(text, `--config ${path}`), `${path}: `);
  const { metrics, accessLog } = config;
  const isPath = accessLog !== undefined && accessLog.file !== '-';
  return {
    ...config,
    ...(isPath && { accessLog: { ...accessLog, file: resolve(folder, accessLog.file) } }),
    ...(metrics?.startsWith('unix:') === true && { metrics: `unix:${resolve(folder, metrics.slice(5))}` }),
    folder,
    exports: config.exports.map((one) =>
      one.socket === undefined ? one : { ...one, socket: resolve(folder, one.socket) },
    ),
  };
}

/** Checks a configuration. @throws UsageError for every mistake in it. */
export function parseConfig(value: unknown, what = ''): Config {
  const config = check(configSchema, value ?? {}, what);
  const sockets = new Set<string | number>();
  for (const [index, one] of config.exports.entries()) {
    const name = `${what}exports[${index}]`;
    const given = [one.socket, one.fd, one.fdName].filter((way) => way !== undefined);
    const [socket] = given;
    if (socket === undefined || given.length > 1) {
      throw new UsageError(`${name}: needs a socket, an fd or an fdName, and one of them only`);
    }
    if (sockets.has(socket)) throw new UsageError(`${name}: ${socket} is another export's socket already`);
    sockets.add(socket);
  }
  return config;
}
