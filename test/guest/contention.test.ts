import { strict as assert } from 'node:assert';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { after, before, describe, it } from 'node:test';
import { GuestError } from '../../core/guest/index.js';
import { contentions } from '../support/workloads.js';
import { DaemonWithGuests } from './daemon-with-guests.js';

describe('two guests on one export', () => {
  let served: DaemonWithGuests;
  before(async () => {
    served = await DaemonWithGuests.boot(
      [{ backend: { type: 'memfs' } }, { tag: 'own', locks: 'local', backend: { type: 'memfs' } }],
      { times: 2, hostTools: true },
    );
  });
  after(() => served[Symbol.asyncDispose]());

  it('see the files of each other', async () => {
    const [one, other] = served.guests;
    await one!.exec('echo from one > /mnt/note');
    assert.equal((await other!.exec('cat /mnt/note')).stdout, 'from one\n');
    await other!.exec('rm /mnt/note');
  });

  for (const [index, { name, holder, contender }] of contentions.entries()) {
    it(`exclude each other by ${name}, and the one that waits is let in when the other lets go`, async () => {
      const [one, other] = served.guests;
      const folder = `/mnt/${index}`;
      await one!.exec(['mkdir', folder]);
      const results = await Promise.all([one!.exec(holder, { folder }), other!.exec(contender, { folder })]);
      for (const { code, stdout, stderr } of results) {
        assert.equal(`${stdout}${stderr}exit ${code}`, 'ok\nexit 0');
      }
    });
  }

  it('keep locks to themselves where those are local, and a process that waits for one can be killed', async () => {
    const [one, other] = served.guests;
    const seen = new PassThrough();
    const script =
      'cd /mnt/own; exec 9> f; flock -x 9; echo held; timeout -s KILL 3 flock -x f true; echo $?';
    const holder = one!.run(script, { stdout: seen });
    assert.equal(String((await once(seen, 'data'))[0]), 'held\n');
    assert.equal((await other!.exec('flock -n -x /mnt/own/f echo free')).stdout, 'free\n');
    assert.equal(String((await once(seen, 'data'))[0]), '137\n');
    assert.equal(await holder, 0);
  });

  it('are rid of the locks of one of them when it dies', async () => {
    const [one, other] = served.guests;
    const held = new PassThrough();
    const holder = one!.run('exec 9> dead; flock -x 9; echo held; sleep 1000', { stdout: held });
    await once(held, 'data');
    const seen = new PassThrough();
    const script = 'exec 9> dead; flock -n -x 9 || echo refused; flock -x 9; echo locked';
    const waiter = other!.run(script, { stdout: seen });
    assert.equal(String((await once(seen, 'data'))[0]), 'refused\n');
    one!.kill();
    await assert.rejects(holder, GuestError);
    assert.equal(String((await once(seen, 'data'))[0]), 'locked\n');
    assert.equal(await waiter, 0);
  });
});
