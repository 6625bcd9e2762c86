import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { fill, INVISIBLE, mountOurs, operations, prepare, view } from './crash-operations.js';

const child = fileURLToPath(new URL('./crash-child.js', import.meta.url));

/** More steps than any operation has. */
const STEPS = 40;

async function restarted(directory: string): Promise<Record<string, string>> {
  const paths = await mountOurs(directory, () => {});
  try {
    return await view(paths);
  } finally {
    await paths.backend.unmount!();
  }
}

for (const name of Object.keys(operations)) {
  test(`${name}: a daemon killed at any step leaves the state before or the state after`, async () => {
    const base = mkdtempSync('/dev/shm/virtiofs-kit-crash-');
    try {
      const prepared = join(base, 'prepared');
      mkdirSync(prepared);
      fill(prepared);
      const paths = await mountOurs(prepared, () => {});
      await prepare(paths);
      await paths.backend.unmount!();
      const before = await restarted(prepared);

      const done = copyOf(prepared, join(base, 'done'));
      assert.equal(run(done, name, 0).status, 0);
      const after = await restarted(done);
      assert.equal(isDeepStrictEqual(after, before), INVISIBLE.has(name));

      let killed = 0;
      for (let step = 1; step < STEPS; step++) {
        const crashed = copyOf(prepared, join(base, `step-${step}`));
        const { signal, status, stderr } = run(crashed, name, step);
        if (signal !== 'SIGKILL') {
          assert.equal(status, 0, stderr);
          break;
        }
        killed += 1;
        const found = await restarted(crashed);
        const whole = isDeepStrictEqual(found, before) || isDeepStrictEqual(found, after);
        if (!whole) assert.deepEqual(found, before, `after a crash at step ${step}`);
        assert.deepEqual(readdirSync(join(crashed, 'upper/work/work')), [], 'temporaries are removed');
      }
      assert.ok(killed > 0 && killed < STEPS - 1, `${killed} steps`);
    } finally {
      rmSync(base, { recursive: true });
    }
  });
}

/** Copies a layer with hard links, devices and extended attributes, which are part of its state. */
function copyOf(from: string, to: string): string {
  const { status, stderr } = spawnSync('cp', ['--archive', from, to], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return to;
}

function run(directory: string, name: string, step: number) {
  return spawnSync(process.execPath, [child, directory, name, `${step}`], {
    encoding: 'utf8',
    timeout: 60_000,
  });
}
