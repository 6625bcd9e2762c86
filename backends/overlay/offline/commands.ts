import * as z from 'zod';
import { defineCommand, type OfflineEnvironment, run } from '../../../core/backend/index.js';
import type { OverlayBackend } from '../backend.js';
import { createOverlay, layerBackend, layerSpec, options, type OverlayOptions } from '../options.js';
import { commit, flatten } from './commit.js';
import { differences } from './diff.js';
import { saveLayer, writeLayer } from './layer-archive.js';

const LAYERS = '--lower /srv/base --upper /srv/changes';

/** The options of a mount. There must be an upper: the commands are about what it changed. */
const layersSchema = options.extend({
  upper: layerSpec.describe('writable layer, which holds the changes').meta({ placeholder: 'LAYER' }),
});

/**
 * Mounts an overlay of layers that nobody serves, while `use` runs. A work area that was made for
 * that is removed again.
 */
async function* withOverlay(
  settings: OverlayOptions,
  environment: OfflineEnvironment,
  use: (overlay: OverlayBackend) => AsyncIterable<string> | Promise<void>,
): AsyncGenerator<string> {
  const overlay = await createOverlay(settings, environment);
  await overlay.mount(environment);
  try {
    const used = use(overlay);
    if (Symbol.asyncIterator in used) yield* used;
    else await used;
  } finally {
    const { work } = overlay.union.writable();
    if (work.isNew) await run(work.destroy());
    await overlay.unmount?.();
  }
}

const LETTERS = { added: 'A', changed: 'C', removed: 'D' } as const;

const diff = defineCommand({
  kind: 'offline',
  name: 'diff',
  description: 'list what was added (A), changed (C) and deleted (D)',
  options: layersSchema,
  examples: [`overlay diff ${LAYERS}`],
  run: (settings, environment) =>
    // In lines as those of `docker diff`.
    withOverlay(settings, environment, async function* ({ union }) {
      for await (const { kind, path } of differences(union)) yield `${LETTERS[kind]} /${path}`;
    }),
});

const exported = defineCommand({
  kind: 'offline',
  name: 'export',
  description: 'write the changes as a layer of a container image: a tar archive with whiteouts',
  options: layersSchema.extend({
    file: z
      .string()
      .min(1)
      .describe('archive to write, gzipped if it ends in gz; - for standard output')
      .meta({ placeholder: 'FILE', positional: true }),
  }),
  examples: [`overlay export layer.tar.gz ${LAYERS}`],
  run: ({ file, ...settings }, environment) =>
    withOverlay(settings, environment, (overlay) =>
      file === '-'
        ? writeLayer(overlay, overlay.union, environment.output)
        : saveLayer(overlay, overlay.union, file),
    ),
});

const committed = defineCommand({
  kind: 'offline',
  name: 'commit',
  description: 'merge the changes down into the topmost lower, and empty the upper',
  options: layersSchema,
  examples: [`overlay commit ${LAYERS}`],
  async *run(settings, environment) {
    yield* withOverlay(settings, environment, flatten);
    yield* withOverlay(settings, environment, async (overlay) => {
      const top = await environment.createBackend(layerBackend(settings.lowers[0]!, settings.xattrs));
      await commit(overlay, top, environment);
    });
  },
});

/** Commands on layers that nobody serves: `virtiofs-kit overlay …`. */
export const commands = [diff, exported, committed];
