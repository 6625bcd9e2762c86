import type { Command } from 'commander';
import {
  commitLayers,
  describeOptions,
  listDifferences,
  Services,
  saveLayer,
  withOverlay,
  writeLayer,
  type BackendRegistry,
  type OfflineLayers,
} from '../../plugins/index.js';
import { addLogOptions, servicesOf } from '../environment.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

/** `overlay diff|export|commit`: what an overlay's upper changed, while nobody serves it. */
export async function addOverlay(program: Command, registry: BackendRegistry): Promise<void> {
  const described = describeOptions((await registry.load('overlay')).options);
  const group = program
    .command('overlay')
    .description("list, export or merge down what an overlay's upper changed, while nobody serves it")
    .addHelpText('after', EXAMPLES);

  const command = (name: string, description: string): Command => {
    const made = group.command(name).description(description).optionsGroup('Layers, as for a mount:');
    for (const option of described) addFlag(made, option);
    addLogOptions(made);
    return made;
  };
  const layers = (values: Values): OfflineLayers => ({
    options: givenOptions(described, values),
    registry,
    optionName: ([name]) => `--${described.find((option) => option.name === name)?.flag ?? String(name)}`,
    log: servicesOf(values, { level: 'warn' }, registry).get(Services.Logger),
  });

  command('diff', 'list what was added (A), changed (C) and deleted (D)').action((values: Values) =>
    withOverlay(layers(values), async (overlay) => {
      for await (const line of listDifferences(overlay)) process.stdout.write(`${line}\n`);
    }),
  );
  command('export', 'write the changes as a layer of a container image: a tar archive with whiteouts')
    .argument('<FILE>', 'archive to write, gzipped if it ends in gz; - for standard output')
    .action((file: string, values: Values) =>
      withOverlay(layers(values), (overlay) =>
        file === '-' ? writeLayer(overlay, process.stdout) : saveLayer(overlay, file),
      ),
    );
  command('commit', 'merge the changes down into the topmost lower, and empty the upper').action(
    (values: Values) => commitLayers(layers(values)),
  );
}

const EXAMPLES = `
Examples:
  virtiofs-kit overlay diff --lower /srv/base --upper /srv/changes
  virtiofs-kit overlay export layer.tar.gz --lower /srv/base --upper /srv/changes
  virtiofs-kit overlay commit --lower /srv/base --upper /srv/changes
`;
