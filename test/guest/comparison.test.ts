import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, describe, it } from 'node:test';
import { compareInGuest, guestTable } from '../bench/guest/compare.js';
import { groupsOf, shareOf } from '../bench/guest/steps.js';
import { cVirtiofsd, ours, type Daemon } from '../support/daemons.js';
import { whyNoUml } from '../support/uml.js';

const AMOUNT = shareOf(0.005);
/** Of each way to take steps one: calls, programs, fio. */
const GROUPS = ['files', 'tree', 'fio'];

describe('the comparison of daemons in a User-Mode Linux guest', { skip: whyNoUml() }, () => {
  const scratch = mkdtempSync(join(tmpdir(), 'virtiofs-kit-test-'));
  after(() => rmSync(scratch, { recursive: true, force: true }));

  it(
    'takes every step on each daemon, this one and one that serves QEMU alone',
    { skip: cVirtiofsd.missing ?? false },
    async () => {
      const subjects = [ours, cVirtiofsd].map((daemon) => ({ name: daemon.name, daemon }));
      const progress: string[] = [];
      const results = await compareInGuest(subjects, {
        amount: AMOUNT,
        only: GROUPS,
        rounds: 1,
        warmUp: 0,
        guests: 1,
        scratch,
        onProgress: (text) => progress.push(text),
      });
      const groups = groupsOf(AMOUNT).filter(({ key }) => GROUPS.includes(key));
      const steps = groups.flatMap((group) => group.steps);
      assert.deepEqual(
        results.map(({ step }) => step.key),
        steps.map(({ key }) => key),
      );
      for (const { step, rounds } of results) {
        assert.equal(rounds.length, 2, step.key);
        for (const all of rounds) {
          assert.equal(all.length, 1, step.key);
          for (const { wall, cpu } of all) assert.ok(wall >= 0 && cpu >= 0, `${step.key} ${wall} ${cpu}`);
        }
      }
      // A daemon that makes files spends processor time, and so does the guest.
      for (const { wall, cpu } of results[0]!.rounds.flat()) assert.ok(wall > 0 && cpu > 0);
      assert.deepEqual(
        progress.filter((text) => text.startsWith('round')),
        GROUPS.map((key) => `round 1 of 1: ${key}`),
      );
    },
  );

  it(
    'has two guests work at the same time, on one process of this daemon and on two of another',
    { skip: cVirtiofsd.missing ?? false },
    async () => {
      const folder = mkdtempSync(join(scratch, 'two-'));
      const launched: string[] = [];
      const daemonOf = ({ command }: Daemon): Pick<Daemon, 'command'> => ({
        command(directory, socket) {
          launched.push(relative(folder, socket));
          return command(directory, socket);
        },
      });
      const subjects = [
        { name: 'one', daemon: daemonOf(ours), servesMany: true },
        { name: 'two', daemon: daemonOf(cVirtiofsd) },
      ];
      const [create] = await compareInGuest(subjects, {
        amount: AMOUNT,
        only: ['files'],
        rounds: 1,
        warmUp: 0,
        guests: 2,
        scratch: folder,
        onProgress() {},
      });
      assert.deepEqual(launched, ['socket0-0', 'socket1-0', 'socket1-1']);
      assert.deepEqual(create!.step.key, 'create');
      for (const { wall, cpu } of create!.rounds.flat()) assert.ok(wall > 0 && cpu > 0);
    },
  );

  it('shows medians of the rounds, and the ratios with their spread', () => {
    const subjects = ['ours', 'theirs'].map((name) => ({ name, daemon: ours }));
    const figures = [
      [1, 2, 4].map((wall) => ({ wall, cpu: wall / 2 })),
      [2, 2, 2].map((wall) => ({ wall, cpu: wall })),
    ];
    assert.equal(
      guestTable(subjects, [{ step: { key: 'a', title: 'step' }, rounds: figures }]),
      [
        '| seconds: wall clock, CPU of the daemon | ours | theirs | wall : theirs | CPU : theirs |',
        '| --- | --- | --- | --- | --- |',
        '| step | 2.00, 1.00 | 2.00, 2.00 | 1.00 (0.50–2.00) | 0.50 (0.25–1.00) |',
        '',
      ].join('\n'),
    );
  });
});
