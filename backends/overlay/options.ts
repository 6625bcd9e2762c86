import * as z from 'zod';
import { type BackendSpec, type PluginEnvironment, UsageError } from '../../core/backend/index.js';
import { overlay, type OverlayBackend } from './backend.js';
import { LAYERS_MAX } from './layers/layer.js';

/**
 * A layer: `TYPE` or `TYPE:PATH` on the command line, a whole specification in a configuration
 * file.
 */
export const layerSpec = z.union([
  z.string().min(1),
  z.looseObject({ type: z.string().min(1).describe('backend of the layer') }),
]);

const path = z
  .string()
  .refine((text) => !parts(text).some((part) => part === '.' || part === '..'), 'a path without dots');

export const options = z.strictObject({
  lowers: z
    .array(layerSpec)
    .min(1)
    .max(LAYERS_MAX - 1)
    .describe('read-only layers, top first')
    .meta({ placeholder: 'LAYER', flag: 'lower' }),
  upper: layerSpec
    .optional()
    .describe('writable layer; without one the export is read-only')
    .meta({ placeholder: 'LAYER' }),
  upperPath: path.default('/').describe("directory of the upper's backend that holds the changes"),
  workPath: path
    .optional()
    .describe("directory of the upper's backend for temporaries; default: hidden in the upper's root"),
  redirectDir: z
    .boolean()
    .default(true)
    .describe('directories of lower layers can be renamed (else EXDEV, and mv copies)'),
  metacopy: z
    .boolean()
    .default(true)
    .describe(
      "a change of a file's mode, owner or attributes leaves its content in the lower (with redirectDir and xattrs trusted)",
    ),
  xattrs: z
    .enum(['trusted', 'user'])
    .default('trusted')
    .describe("namespace of overlayfs's extended attributes (user: as the kernel's userxattr)"),
  marks: z
    .enum(['auto', 'overlayfs', 'names'])
    .default('auto')
    .describe("whiteouts as overlayfs's devices and attributes, or as reserved names (.wh.NAME)"),
});

export type OverlayOptions = z.output<typeof options>;

/** Makes the layers, and an overlay of them. */
export async function createOverlay(
  settings: OverlayOptions,
  environment: PluginEnvironment,
): Promise<OverlayBackend> {
  const create = async (layer: z.infer<typeof layerSpec>) =>
    environment.createBackend(layerBackend(layer, settings.xattrs));
  const lowers = [];
  for (const spec of settings.lowers) lowers.push(await create(spec));
  return overlay({
    upper: settings.upper === undefined ? undefined : await create(settings.upper),
    lowers,
    upperPath: parts(settings.upperPath),
    workPath: settings.workPath === undefined ? undefined : parts(settings.workPath),
    redirectDir: settings.redirectDir,
    metacopy: settings.metacopy,
    xattrs: settings.xattrs,
    marks: settings.marks,
  });
}

function parts(text: string): string[] {
  return text.split('/').filter((part) => part !== '');
}

/**
 * The backend of a layer whose marks an overlay reads and writes: only so may a directory have
 * `trusted.*`.
 * @throws UsageError if it is neither a directory, nor a backend's name, nor a specification.
 */
export function layerBackend(layer: z.infer<typeof layerSpec>, xattrs: 'trusted' | 'user'): BackendSpec {
  const spec = toSpec(layer);
  return spec.type === 'passthrough' && xattrs === 'trusted' ? { trustedXattrs: 'allow', ...spec } : spec;
}

/**
 * The specification of a layer's backend. The short form is a directory or a backend's name.
 * @throws UsageError if it is neither.
 */
function toSpec(layer: string | { readonly type: string }): BackendSpec {
  if (typeof layer !== 'string') return layer;
  const [type = '', ...rest] = layer.split(':');
  const directory = rest.join(':');
  if (layer.startsWith('/')) return { type: 'passthrough', sharedDir: layer };
  if (directory === '') return { type };
  if (type === 'passthrough') return { type, sharedDir: directory };
  if (type === 'memfs') return { type, from: directory };
  throw new UsageError(`layer ${layer}: write it out in a configuration file (see docs/config.md)`);
}
