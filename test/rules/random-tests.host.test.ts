import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
const failing = fileURLToPath(new URL('./failing-property.js', import.meta.url));

/** What the failing test prints, as TAP. */
function output(environment: Record<string, string>): string {
  const { NODE_TEST_CONTEXT: _, ...inherited } = process.env;
  const { stdout } = spawnSync(process.execPath, ['--test', '--test-reporter=tap', failing], {
    env: { ...inherited, ...environment },
    encoding: 'utf8',
  });
  return stdout;
}

test('a random test that fails prints the command that repeats it', () => {
  const first = output({});
  assert.match(first, /Counterexample: \[1000\]/);
  const command = /Repeat with: (npm run test:unit -- rules\/failing-property .*)/.exec(first);
  assert.ok(command, first);
  assert.match(command[1]!, /--name '\^a property .*\(of numbers.* that does not hold\$'/);
  const seed = /--seed=(-?\d+)/.exec(command[1]!)![1]!;
  const path = /--path=([\d:]+)/.exec(command[1]!)![1]!;

  const again = output({ VIRTIOFS_KIT_SEED: seed, VIRTIOFS_KIT_PATH: path, VIRTIOFS_KIT_QUICK: '1' });
  assert.match(again, /failed after 1 tests/);
  assert.match(again, /Counterexample: \[1000\]/);
});

test('random tests check their properties by test/support/random.ts', () => {
  const others = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && file !== join('support', 'random.ts'))
    .filter((file) => /\bfc\.(assert|check)\(/.test(readFileSync(join(root, 'test', file), 'utf8')))
    .filter((file) => !file.endsWith('random-tests.host.test.ts'));
  assert.deepEqual(others, []);
});
