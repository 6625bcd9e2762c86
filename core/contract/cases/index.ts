import type { ContractCase } from '../case.js';
import { attributeCases } from './attributes.js';
import { fileCases } from './files.js';
import { lockCases } from './locks.js';
import { nameCases } from './names.js';
import { sequenceCases } from './sequences.js';
import { treeCases } from './tree.js';

/** Every rule, by subject. */
export const cases: readonly ContractCase[] = [
  ...treeCases,
  ...fileCases,
  ...nameCases,
  ...attributeCases,
  ...lockCases,
  ...sequenceCases,
];
