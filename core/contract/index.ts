/**
 * The contract as a test suite, for authors of backends. Each rule is a case with a sentence for a
 * name. Cases run through a real session, as a guest's kernel would see the backend. No test
 * runner is needed: {@link checkBackend} returns the result of each case.
 *
 * - `cases/`: the rules, by subject. `case.ts`: what a case is given. `expect.ts`: what it asserts
 *   with.
 * - `check.ts`: runs the cases, and tells what is wrong.
 * - `test-contract.ts`: the same for a test runner, rule by rule.
 * - `sequences/`: random sequences of operations, beside a model.
 * - `name-pattern.ts`: for backends that refuse names.
 * - `client.ts`, `replies.ts`: sends FUSE requests as a guest's kernel does, and reads the
 *   replies.
 * - `local-transport.ts`: carries them within this process.
 */
export type { ContractCase, Method } from './case.js';
export { cases } from './cases/index.js';
export { type CaseResult, checkBackend, type CheckOptions, type CheckReport } from './check.js';
export { type MakeTest, testContract, type TestContractOptions } from './test-contract.js';
