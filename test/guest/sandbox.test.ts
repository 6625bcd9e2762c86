import { strict as assert } from 'node:assert';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import { program } from '../support/program.js';

function sandbox(words: readonly string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, 'sandbox', '--timeout', '480', ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: '/usr',
      env: { ...process.env, TOKEN: 'secret of the host' },
    });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.once('error', reject).once('close', (code) => resolve({ code, stdout, stderr }));
  });
}

it("a command in a sandbox sees this host's programs, and changes nothing here", async () => {
  const folder = mkdtempSync(join(tmpdir(), 'virtiofs-kit-sandbox-'));
  const diff = join(folder, 'diff.tar');
  const before = readdirSync('/usr/share');
  const server = createServer(({ headers }, response) => response.end(String(headers['x-token'])));
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const site = `localhost:${(server.address() as AddressInfo).port}`;
  try {
    const script = `pwd; apt-get --version | head -n 1; git --version
      rm -rf /usr/share/doc; ls -A /usr/share | wc -l; mkdir /usr/share/doc; ls -A /usr/share/doc
      echo shared > ${folder}/share/file; ! touch ${folder}/fixed/file 2>/dev/null; echo kept > /etc/kept
      # A process that waits for a lock can be killed: locks stay in the guest, which has all this to itself.
      for file in /held ${folder}/share/held; do
        exec 9> $file; flock -x 9; timeout -s KILL 1 flock -x $file true; echo $?
      done
      mkfifo /tmp/request; exec 8<>/tmp/request; printf 'GET http://${site}/ HTTP/1.0\\r\\n\\r\\n' >&8
      env | grep -c 'secret of'; /run/virtiofs-kit/busybox nc 127.0.0.1 3128 </tmp/request | tail -n 1
      exit 7`;
    for (const name of ['share', 'fixed']) mkdirSync(join(folder, name));
    const shares = ['--share', `${folder}/share`, '--share', `${folder}/fixed:ro`];
    const network = ['--allow', site, '--allow-internal', '--header', `http://${site} X-Token=TOKEN`];
    const { code, stdout, stderr } = await sandbox([
      ...shares,
      ...network,
      '--keep-diff',
      diff,
      '--',
      'sh',
      '-c',
      script,
    ]);
    assert.match(stdout, /^\/usr\napt .*\ngit version .*\n/, stderr);
    assert.equal(
      stdout.split('\n').slice(3).join('\n'),
      `${before.length - 1}\n137\n137\n0\nsecret of the host`,
      stderr,
    );
    assert.equal(code, 7);
    assert.deepEqual(readdirSync('/usr/share'), before);
    assert.notEqual(readdirSync('/usr/share/doc').length, 0);
    assert.equal(existsSync('/etc/kept'), false);
    assert.equal(readFileSync(`${folder}/share/file`, 'utf8'), 'shared\n');
    assert.equal(existsSync(`${folder}/fixed/file`), false);
    const archive = readFileSync(diff, 'latin1');
    for (const member of ['etc/kept', 'usr/share/doc/', 'usr/share/doc/.wh..wh..opq']) {
      assert.ok(archive.includes(`\n${member}\0`) || archive.includes(`\0${member}\0`), member);
    }
  } finally {
    server.close();
    rmSync(folder, { recursive: true });
  }
});
