import type { Command } from 'commander';
import { confineSchema, type ConfineConfig } from '../../plugins/options/config-schema.js';
import type { Confinement } from '../../plugins/confine.js';
import { LAYERS, parseCapabilities, parseLayers } from '../../plugins/options/confinement-options.js';
import { check, describeOptions, toFlag } from '../../plugins/options/option-descriptions.js';
import { addFlag, givenOptions, type Values } from '../flags.js';

/** Flags of the confinement, except the layers: `--confine` has them as a list. */
const CONFINE_FLAGS = describeOptions(confineSchema).filter(({ name }) => name !== 'layers');

/** Adds the flags of the confinement. @param heading above them in the help. */
export function addConfinementOptions(command: Command, heading: string): void {
  command
    .optionsGroup(heading)
    .option(
      '--confine <LAYERS>',
      `what the daemon locks itself in by: ${LAYERS.join(',')} (default), or none`,
    );
  for (const option of CONFINE_FLAGS) addFlag(command, option);
}

/** Whether a flag of the confinement was given. */
export function hasConfinementFlags(values: Values): boolean {
  return values['confine'] !== undefined || Object.keys(givenOptions(CONFINE_FLAGS, values)).length > 0;
}

/**
 * The confinement, from flags and, where they say nothing, from the configuration file.
 * @throws UsageError for a wrong value of a flag.
 */
export function confinementFrom(values: Values, settings: Partial<ConfineConfig>): ConfineConfig {
  const layers = typeof values['confine'] === 'string' ? { layers: parseLayers(values['confine']) } : {};
  const given = { ...settings, ...layers, ...givenOptions(CONFINE_FLAGS, values) };
  return check(confineSchema, given, '', ([name]) => `--${toFlag(String(name))}`);
}

/** The same, as a process is confined by it. */
export function confinementOf(
  { layers, missingLayers, seccompAction, modcaps }: ConfineConfig,
  values: Values,
): Confinement {
  const { config } = values;
  return {
    layers,
    missingLayers,
    seccompAction,
    capabilities: modcaps === undefined ? [] : parseCapabilities(modcaps),
    reads: typeof config === 'string' ? [config] : [],
  };
}
