/**
 * The contract as a test suite, for authors of backends. Each rule is a case with a sentence for a
 * name. Cases run through a real session, as a guest's kernel would see the backend: a `Client`
 * (`client.ts`) sends FUSE requests over a transport in this process (`local-transport.ts`). No
 * test runner is needed: {@link checkBackend} returns the result of each case.
 *
 * - `cases/`: the rules, by subject.
 */
export type { ContractCase, Method } from './case.js';
export { cases } from './cases/index.js';
export { type CaseResult, checkBackend, type CheckOptions, type CheckReport } from './check.js';
