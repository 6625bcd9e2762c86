import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setIdProgram } from '../support/set-ids.js';
import { fastest } from '../support/uml.js';
import { DaemonWithGuests } from './daemon-with-guests.js';

/**
 * What Linux gives a file in a set-group-id directory of a group: set-group-id with group-execute
 * only to members and to root (fs/inode.c, mode_strip_sgid).
 */
function made(what: string, who: string, mode: number): string {
  if (what === 'mkdir') return ((mode & 0o1777) | 0o2000).toString(8);
  const isMember = who === 'root' || who.endsWith('in the group');
  return (isMember || (mode & 0o2010) !== 0o2010 ? mode : mode & ~0o2000).toString(8);
}

describe('in a guest that tells no supplementary groups', () => {
  let folder: string;
  let served: DaemonWithGuests;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'virtiofs-kit-shared-'));
    await chmod(folder, 0o755);
    await mkdir(join(folder, 'lower'));
    const overlaid = {
      upper: { type: 'memfs' },
      lowers: [{ type: 'passthrough', sharedDir: join(folder, 'lower') }],
    };
    served = await DaemonWithGuests.boot(
      [
        { backend: { type: 'passthrough', sharedDir: folder } },
        { tag: 'memfs', backend: { type: 'memfs' } },
        { tag: 'overlay', backend: { type: 'overlay', ...overlaid } },
      ],
      { hostTools: true, accelerator: fastest() },
    );
  });
  after(async () => {
    await served[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  for (const [backend, directory] of [
    ['passthrough', '/mnt'],
    ['memfs', '/mnt/memfs'],
    ['an overlay', '/mnt/overlay'],
  ] as const) {
    it(`a user keeps set-group-id of what he makes for a group of his: ${backend}`, async () => {
      const { stdout, stderr, code } = await served.guest.exec([
        'perl',
        '-e',
        setIdProgram,
        directory,
        'creations',
      ]);
      assert.equal(code, 0, stderr);
      const lines = stdout.trimEnd().split('\n');
      assert.equal(lines.length, 80);
      for (const line of lines) {
        const [, what, who, mode] = /^(.*), by (.*), of ([0-7]+): /.exec(line)!;
        const expected = made(what!, who!, Number.parseInt(mode!, 8));
        assert.equal(line, `${what}, by ${who}, of ${mode}: ${expected}`);
      }
    });
  }
});
