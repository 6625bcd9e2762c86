import { strict as assert } from 'node:assert';
import { execFileSync } from 'node:child_process';
import { lstatSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { packCpio } from '../../../core/guest/cpio.js';

test('busybox unpacks the archive into the same files, whatever the lengths of names and contents', () => {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-cpio-'));
  try {
    const files = Array.from({ length: 9 }, (_, i) => ({
      path: `d/${'n'.repeat(i + 1)}`,
      mode: 0o100640 + (i % 2),
      content: Buffer.alloc(i, `${i}`),
    }));
    const archive = packCpio([{ path: 'd', mode: 0o040755 }, ...files]);
    assert.equal(archive.length % 4, 0);
    execFileSync('busybox', ['cpio', '-i'], { cwd: folder, input: archive, stdio: ['pipe', 'pipe', 'pipe'] });
    assert.deepEqual(readdirSync(join(folder, 'd')), files.map(({ path }) => path.slice(2)).sort());
    for (const { path, mode, content } of files) {
      assert.deepEqual(readFileSync(join(folder, path)), content);
      assert.equal(lstatSync(join(folder, path)).mode, mode);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
