/**
 * Environment variable by which a program that `confine.ts` executes anew knows that it is the
 * second one. It says which process it is about, and which descriptor has what the first has left.
 */
export const CONFINED = 'VIRTIOFS_KIT_CONFINED';
