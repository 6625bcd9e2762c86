import assert from 'node:assert/strict';
import { it } from 'node:test';
import { BackendRegistry, MountedExport } from '../../../core/plugins/index.js';
import { keepingLog, shell, temporaryDirectory } from '../../support/host-mount.js';

it('on a host mount more processes may wait for one lock than a queue of a guest would hold', async () => {
  await using host = await temporaryDirectory();
  const log = keepingLog();
  const options = { directory: host.path, backend: { type: 'memfs' }, registry: new BackendRegistry(), log };
  const mounted = await MountedExport.open(options);
  try {
    const { code, output } = await shell(
      `: > lock; exec 9> lock; flock -x 9
      for i in $(seq 1 150); do (flock -x lock echo granted || echo refused) 9>&- & done
      sleep 1; echo waiting; flock -u 9; exec 9>&-; wait`,
      mounted.directory,
    );
    const lines = output.trimEnd().split('\n');
    assert.deepEqual([code, lines[0]], [0, 'waiting']);
    assert.deepEqual(lines.slice(1), Array(150).fill('granted'));
  } finally {
    await mounted.close();
  }
});
