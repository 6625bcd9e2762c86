/**
 * The contract as a test suite, for authors of backends: what must hold of a file system, case by
 * case and by name, checked through a real session, as a guest's kernel would see it. It needs no
 * test runner: {@link checkBackend} returns what became of each case.
 */
export type { ContractCase, Method } from './case.js';
export { cases } from './cases/index.js';
export { type CaseResult, checkBackend, type CheckOptions, type CheckReport } from './check.js';
