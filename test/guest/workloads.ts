import { strict as assert } from 'node:assert';
import { describe, it } from 'node:test';
import type { BackendSpec } from '../../core/backend/index.js';
import type { Guest } from '../../core/guest/index.js';
import type { ServedExport } from '../../core/plugins/index.js';
import { workloads } from '../support/workloads.js';
import { DaemonWithGuests } from './daemon-with-guests.js';

/** What is special about a backend. */
export interface WorkloadOptions {
  /** What runs the guest; QEMU by default. */
  readonly accelerator?: 'uml' | undefined;
  /** How it is served. */
  readonly served?: Partial<ServedExport>;
  /** Whether a queue thread serves the guest's queue. */
  readonly onThread?: boolean;
  /** Whether the backend can't do a workload. */
  readonly lacks?: RegExp;
  /** Comes before every script. */
  readonly prelude?: string;
  /** Declares more tests of the same guest, which run after the workloads. */
  readonly more?: (guest: () => Guest) => void;
}

/**
 * Runs every workload in one real guest that has mounted the backend; the programs are this
 * machine's.
 */
export function runWorkloads(
  name: string,
  prepare: () => Promise<BackendSpec>,
  { accelerator, lacks, prelude = '', more, served: settings = {}, onThread = false }: WorkloadOptions = {},
): void {
  describe(`in a real guest on ${name}`, () => {
    let served: DaemonWithGuests | undefined;
    const guest = (): Guest => {
      assert.ok(served !== undefined, 'no guest');
      return served.guest;
    };
    it('boots and mounts', async () => {
      const one = { ...settings, backend: await prepare() };
      served = await DaemonWithGuests.boot([one], { hostTools: true, onThread, accelerator });
    });
    for (const [index, { name: sentence, script }] of workloads
      .filter(({ interrupts }) => interrupts !== true)
      .entries()) {
      it(sentence, { skip: lacks?.test(sentence) ?? false }, async () => {
        await guest().exec(['mkdir', `/mnt/${index}`]);
        const { code, stdout, stderr } = await guest().exec(prelude + script, { folder: `/mnt/${index}` });
        assert.equal(`${stdout}${stderr}exit ${code}`.replace(/[^]*(?=ok\nexit 0$)/, ''), 'ok\nexit 0');
      });
    }
    more?.(guest);
    it('unmounts and switches itself off', async () => {
      await served?.[Symbol.asyncDispose]();
    });
  });
}
