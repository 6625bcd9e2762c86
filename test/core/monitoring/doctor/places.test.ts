import assert from 'node:assert/strict';
import { chmodSync, renameSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { judgeFolders, judgeSockets } from '../../../../core/monitoring/doctor/index.js';
import { UnixListener } from '../../../../core/system/index.js';
import { temporaryFolder } from '../../../support/vhost-user.js';

async function listening(t: TestContext, path: string, mode: number): Promise<void> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  chmodSync(path, mode);
  t.after(() => server.close());
}

test('sockets are told by who listens and who may connect, and nobody connects', async (t) => {
  const folder = temporaryFolder(t);
  const [open, closed, own, stale, file, absent] = ['open', 'closed', 'own', 'stale', 'file', 'absent'].map(
    (name) => join(folder, name),
  ) as [string, string, string, string, string, string];
  await listening(t, open, 0o777);
  await listening(t, closed, 0o660);
  await listening(t, own, 0o700);
  // Closed without a trace, as by SIGKILL.
  const listener = UnixListener.listen(`${stale}.now`);
  renameSync(`${stale}.now`, stale);
  listener.close();
  writeFileSync(file, '');
  const findings = judgeSockets([open, closed, own, stale, file, absent], true);
  assert.deepEqual(
    findings.map(({ level, text }) => `${level}: ${text}`.slice(0, 38)),
    [
      'warning: served, mode 0777: every user',
      'ok: served, mode 0660',
      'note: served, mode 0700: only its owne',
      'warning: a socket file on which nobody',
      'problem: what is there is no socket, s',
      'note: nobody serves there',
    ],
  );
});

test('folders are told by their free space', (t) => {
  const folder = temporaryFolder(t);
  const [one, missing, ...others] = judgeFolders([folder, folder, join(folder, 'none')]);
  assert.deepEqual(others, []);
  assert.match(one!.text, /^\d+ MiB (free|and \d+ inodes are free)$/);
  assert.equal(missing!.text, 'there is no such folder');
});
