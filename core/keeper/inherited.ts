/** Environment variable with the descriptor of an engine's connection to its keeper. */
export const KEEPER_VARIABLE = 'VIRTIOFS_KIT_KEEPER';

/** The descriptor of the keeper's control connection; undefined in a process without keeper. */
export function keeperDescriptor(): number | undefined {
  const value = process.env[KEEPER_VARIABLE];
  return value === undefined || !/^\d+$/.test(value) ? undefined : Number(value);
}
