import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-sandbox-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const sandbox = fileURLToPath(new URL('../../examples/sandbox/sandbox.js', import.meta.url));

test('an untrusted script runs in a throw-away guest, and shows what it changed of a directory that stays', async () => {
  const directory = join(folder, 'project');
  mkdirSync(join(directory, 'src'), { recursive: true });
  writeFileSync(join(directory, 'package.json'), '{}');
  writeFileSync(join(directory, 'src/index.js'), 'hello');
  const script = join(folder, 'script.sh');
  writeFileSync(
    script,
    'cat src/index.js; echo owned > package.json; rm -rf src; mkdir .hidden; touch .hidden/x; ' +
      'dd if=/dev/zero of=fill bs=1M count=400 2>/dev/null || echo " full"; rm fill; exit 7',
  );
  const child = spawn(process.execPath, [sandbox, directory, script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [stdout, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
  assert.equal(code, 0);
  assert.equal(
    stdout,
    [
      'hello full',
      '',
      'exit code 7',
      'added /.hidden',
      'added /.hidden/x',
      'changed /package.json',
      'removed /src',
      'removed /src/index.js',
      '',
    ].join('\n'),
  );
  assert.equal(readFileSync(join(directory, 'package.json'), 'utf8'), '{}');
  assert.ok(existsSync(join(directory, 'src/index.js')));
});
