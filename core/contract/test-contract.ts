import { type CheckOptions, checkBackend } from './check.js';
import { cases } from './cases/index.js';

/**
 * Makes one test: `test` of node:test or vitest, `it` of Jest or Mocha. What it hands to the test,
 * if anything, may have a `skip`.
 */
export type MakeTest = (name: string, run: (...context: unknown[]) => Promise<void>) => unknown;

/** What {@link testContract} needs of a backend's test. */
export interface TestContractOptions extends Omit<CheckOptions, 'log' | 'only' | 'onResult' | 'except'> {
  /** Default: nowhere. Exceptions of the backend are shown with the failure. */
  readonly log?: CheckOptions['log'];
}

/**
 * Makes a test of each rule of the contract, for any test runner. Each begins with a backend of its
 * own. Rules that need a method which the backend lacks are skipped, or pass where the runner does
 * not hand a way to skip to its tests.
 * @param test makes one test
 */
export function testContract(test: MakeTest, { log = NOWHERE, ...options }: TestContractOptions): void {
  for (const { name } of cases) {
    // Without a formal parameter: Mocha and Jest take one for a callback to wait for.
    test(name, async (...[context]) => {
      const { results } = await checkBackend({ ...options, log, only: (one) => one === name });
      for (const { outcome, reason, error, causes = [] } of results) {
        if (outcome === 'failed') throw new Error(reason, { cause: error ?? causes[0] });
        if (outcome === 'skipped') skip(context, reason);
      }
    });
  }
}

function skip(context: unknown, reason: string | undefined): void {
  if (typeof context !== 'object' || context === null || !('skip' in context)) return;
  if (typeof context.skip === 'function') context.skip(reason);
}

const nothing = (): void => undefined;
const NOWHERE = { debug: nothing, info: nothing, warn: nothing, error: nothing };
