import type { SavedExport } from '../../core/state/saved-form.js';
import type { Random } from './random.js';

const STRANGE: readonly unknown[] = [
  [0, 1, -1, 2, 7, 255, 65536, 2 ** 30, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 0.5, 1e300],
  ['', '0', '9', '18446744073709551615', '99999999999999999999', 'x', 'AAAA', '/w==', '\0', '__proto__'],
  [null, true, false, [], {}, [[]], [0, 1], { s: '' }, { n: -1 }, { b: 'AA==' }],
].flat();

/** Changes one value somewhere in the JSON: another value, a copy of a neighbour, or none. */
export function mutate(root: SavedExport, random: Random): void {
  let parent: Record<string, unknown> = { root };
  let key = 'root';
  for (;;) {
    const value = parent[key];
    const keys = typeof value === 'object' && value !== null ? Object.keys(value) : [];
    if (keys.length === 0 || (key !== 'root' && random.below(6) === 0)) break;
    parent = value as Record<string, unknown>;
    key = random.pick(keys);
  }
  if (parent['root'] !== undefined) return;
  const choice = random.below(5);
  const old = parent[key];
  if (choice === 0 && Array.isArray(parent)) parent.splice(Number(key), 1);
  else if (choice === 0) delete parent[key];
  else if (choice === 1 && Array.isArray(parent)) parent.push(structuredClone(random.pick(parent)));
  else if (choice === 2) parent[key] = structuredClone(parent[random.pick(Object.keys(parent))]);
  else if (choice === 3 && typeof old === 'number') parent[key] = old + random.pick([-1, 1, 16, 1 << 20]);
  else parent[key] = structuredClone(random.pick(STRANGE));
}
