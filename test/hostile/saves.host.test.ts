import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { hostBuffer } from '../../core/memory/host-buffer.js';
import memfs from '../../backends/memfs/index.js';
import { MemoryLog } from '../support/engine.js';

test(
  'a volume that has no room where it is to be saved waits for it, and is not lost',
  process.geteuid!() === 0 ? {} : { skip: 'needs root' },
  async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'vfk-save-'));
    assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory]).status, 0);
    t.after(() => {
      spawnSync('umount', ['-l', directory]);
      rmSync(directory, { recursive: true });
    });
    const log = new MemoryLog();
    const save = join(directory, 'volume.tar');
    const backend = await memfs.create(memfs.options!.parse({ save }) as never, { log } as never);
    const root = (await backend.mount({ log, createBuffer: hostBuffer })) as object;
    const context = {
      uid: 0,
      gid: 0,
      pid: 1,
      umask: 0,
      groups: [],
      securityContext: undefined,
      signal: new AbortController().signal,
    };
    const made = (await backend.create!(root, 'file', 0o644, 2, context)) as { node: object; file: unknown };
    const data = hostBuffer(2 ** 18);
    await backend.write!(made.node, made.file as never, data, 0, 0, context);
    data.close();
    const ended = Promise.resolve(backend.unmount!());
    while (!log.errors.some((line) => line.startsWith('no room to save'))) await sleep(20);
    assert.deepEqual(readdirSync(directory), []);
    spawnSync('mount', ['-o', 'remount,size=8m', directory]);
    await ended;
    assert.deepEqual(readdirSync(directory), ['volume.tar']);
  },
);
