import { strict as assert } from 'node:assert';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Guest } from '../../core/guest/index.js';
import { landlockVersion } from '../../core/system/confinement/landlock.js';
import { serve } from '../support/confined-daemon.js';
import { temporaryFolder } from '../support/vhost-user.js';

const skip = process.geteuid!() === 0 && landlockVersion() > 0 ? {} : { skip: 'needs root and Landlock' };

test(
  'a guest boots from a daemon that has confined itself, and reads and writes its files',
  skip,
  async (t) => {
    const share = join(temporaryFolder(t), 'share');
    mkdirSync(share);
    const content = randomBytes(3 * 2 ** 20);
    writeFileSync(join(share, 'file'), content);
    const words = ['--log-level', 'debug', '--queue-threads', '1', '--io-threads', '1'];
    const { said, text, socket, end } = await serve(t, share, { words, until: 'sealed' });
    assert.equal(said.at(-1)?.['msg'], 'sealed', text);
    const guest = await Guest.boot({ shares: [{ tag: 'confined', socket, mountPoint: '/mnt' }] });
    try {
      const { stdout } = await guest.exec('cp /mnt/file /mnt/copy && sync && sha256sum < /mnt/copy');
      assert.equal(stdout.split(' ')[0], createHash('sha256').update(content).digest('hex'));
      const { code } = await guest.exec(
        'mkdir /mnt/d && mv /mnt/copy /mnt/d/moved && ln -s moved /mnt/d/link && ls -lR /mnt',
      );
      assert.equal(code, 0);
    } finally {
      await guest[Symbol.asyncDispose]();
    }
    assert.ok(content.equals(readFileSync(join(share, 'd', 'moved'))));
    assert.equal(await end(), 0);
  },
);
