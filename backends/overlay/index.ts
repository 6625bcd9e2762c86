/**
 * The overlay backend: a writable upper over read-only lowers, each any backend, with the semantics
 * and the on-disk format of Linux overlayfs.
 *
 * `backend.ts` puts an overlay together. `layers/` is what one layer knows: nodes that are in use,
 * whiteouts and other marks, the work area, where content is. `tree/` is the union: its nodes,
 * look-up, listings, and the queue of changes. `changes/` copies up, creates, renames and removes.
 * `operations/` are the contract's methods, thin. `offline/` lists and commits the differences.
 * `saved-state.ts` is the state for a restart.
 */
import { z } from 'zod';
import { type BackendSpec, definePlugin, UsageError } from '../../core/backend/index.js';
import { overlay } from './backend.js';
import { LAYERS_MAX } from './layers/layer.js';

export { commit, flatten } from './offline/commit.js';
export { differences, type Difference } from './offline/diff.js';
export { overlay, type OverlayBackend } from './backend.js';
export type { OverlaySettings } from './settings.js';

/**
 * A layer: `TYPE` or `TYPE:PATH` on the command line, a whole specification in a configuration
 * file.
 */
const layerSpec = z.union([
  z.string().min(1),
  z.looseObject({ type: z.string().min(1).describe('backend of the layer') }),
]);

const path = z
  .string()
  .refine((text) => !parts(text).some((part) => part === '.' || part === '..'), 'a path without dots');

const options = z.strictObject({
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

export default definePlugin({
  name: 'overlay',
  description: 'a writable layer over read-only ones, each any backend',
  options,
  async create(settings, environment) {
    const create = async (spec: z.infer<typeof layerSpec>) =>
      environment.createBackend(withMarks(toSpec(spec), settings.xattrs));
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
  },
  needs: ({ lowers, upper, xattrs }) => ({
    paths: [],
    capabilities: xattrs === 'trusted' ? ['sys_admin', 'mknod'] : ['mknod'],
    backends: [...lowers, ...(upper === undefined ? [] : [upper])].map((layer) =>
      withMarks(toSpec(layer), xattrs),
    ),
  }),
});

/** A layer whose marks this overlay reads and writes: only so may a directory have `trusted.*`. */
function withMarks(layer: BackendSpec, xattrs: 'trusted' | 'user'): BackendSpec {
  return layer.type === 'passthrough' && xattrs === 'trusted' ? { trustedXattrs: 'allow', ...layer } : layer;
}

function parts(text: string): string[] {
  return text.split('/').filter((part) => part !== '');
}

/**
 * The specification of a layer's backend. The short form is a directory or a backend's name.
 * @throws UsageError if it is neither.
 */
export function toSpec(layer: string | { readonly type: string }): BackendSpec {
  if (typeof layer !== 'string') return layer;
  const [type = '', ...rest] = layer.split(':');
  const directory = rest.join(':');
  if (layer.startsWith('/')) return { type: 'passthrough', sharedDir: layer };
  if (directory === '') return { type };
  if (type === 'passthrough') return { type, sharedDir: directory };
  if (type === 'memfs') return { type, from: directory };
  throw new UsageError(`layer ${layer}: write it out in a configuration file (see docs/config.md)`);
}
