import { strict as assert } from 'node:assert';
import { describe, it } from 'node:test';
import type { BackendSpec } from '../../core/backend/index.js';
import { workloads } from '../support/workloads.js';
import { ServedGuests } from './served-guests.js';

/**
 * Runs every workload in one real guest that has mounted the backend; the programs are this machine's.
 * @param lacks tells the workloads that the backend can't do.
 */
export function runWorkloads(
  name: string,
  prepare: () => Promise<BackendSpec>,
  lacks: RegExp | undefined = undefined,
): void {
  describe(`in a real guest on ${name}`, () => {
    let served: ServedGuests | undefined;
    it('boots and mounts', async () => {
      served = await ServedGuests.boot([{ backend: await prepare() }], { hostTools: true });
    });
    for (const [index, { name: sentence, script }] of workloads
      .filter(({ interrupts }) => interrupts !== true)
      .entries()) {
      it(sentence, { skip: lacks?.test(sentence) ?? false }, async () => {
        assert.ok(served !== undefined, 'no guest');
        await served.guest.exec(['mkdir', `/mnt/${index}`]);
        const { code, stdout, stderr } = await served.guest.exec(script, {
          folder: `/mnt/${index}`,
        });
        assert.equal(`${stdout}${stderr}exit ${code}`.replace(/[^]*(?=ok\nexit 0$)/, ''), 'ok\nexit 0');
      });
    }
    it('unmounts and switches itself off', async () => {
      await served?.[Symbol.asyncDispose]();
    });
  });
}
