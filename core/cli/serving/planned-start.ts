import { inheritedConfinement } from '../../plugins/confine.js';
import { BackendRegistry } from '../../plugins/registry.js';
import { report } from '../report.js';
import { serveExports } from './serve-exports.js';
import { type LeftForServing, openForPlan } from './plan.js';

/**
 * Goes on where `start.ts` has executed the program anew: serves by the plan that was left.
 * @returns whether there was one.
 */
export async function serveAsPlanned(): Promise<boolean> {
  let isDebug = false;
  try {
    const inherited = inheritedConfinement();
    if (inherited === undefined) return false;
    const { plan, checked } = inherited.given as LeftForServing;
    isDebug = plan.logConfig.level === 'debug';
    const opened = await openForPlan(plan);
    const registry = new BackendRegistry(checked);
    await serveExports({ plan, opened, registry, entered: inherited.entered });
  } catch (error) {
    process.exitCode = report(error, isDebug);
  }
  return true;
}
