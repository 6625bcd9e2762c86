import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { MemfsVolume } from '../../../backends/memfs/index.js';
import { overlay } from '../../../backends/overlay/index.js';
import { passthrough } from '../../../backends/passthrough/backend.js';
import { options } from '../../../backends/passthrough/options.js';
import type { Backend } from '../../../core/backend/index.js';
import { restoreSession, saveSession } from '../../../core/fuse/index.js';
import { InitFlag } from '../../../core/fuse/wire/abi.js';
import { hostBuffer } from '../../../core/memory/index.js';
import { restoreExport, saveExport } from '../../../core/state/index.js';
import { engine, MemoryLog } from '../../support/engine.js';
import { FuseClient, rejectsWith, ROOT, usualInitFlags } from '../../support/fuse-client.js';
import { Loopback } from '../../support/loopback.js';

const ESTALE = 116;

/** Makes what a daemon of its own serves, of the same files. @param folder for them. */
type Serve = (folder: string) => Backend;

const share = (sharedDir: string): Backend =>
  passthrough(options.parse({ sharedDir, trustedXattrs: 'allow' }), new MemoryLog()) as Backend;

const backends: Readonly<Record<string, Serve>> = {
  passthrough: (folder) => share(join(folder, 'upper')),
  memfs: () => new MemfsVolume().backend as Backend,
  'an overlay': (folder) =>
    overlay({
      lowers: [share(join(folder, 'lower'))],
      upper: share(join(folder, 'upper')),
      upperPath: ['files'],
      workPath: ['work'],
      redirectDir: true,
      metacopy: false,
      xattrs: 'trusted',
      marks: 'auto',
    }) as Backend,
};

for (const [name, serve] of Object.entries(backends))
  test(`another daemon finds files and directories by handles that guests have had on ${name}`, async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'vfk-handles-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    for (const part of ['upper', 'lower']) mkdirSync(join(folder, part));
    writeFileSync(join(folder, 'lower/below'), 'below');
    const limits = { remembered: 100 };
    const running = await engine(serve(folder), { limits });
    const { client, session } = running.guest();
    await client.init(usualInitFlags | BigInt(InitFlag.EXPORT_SUPPORT));
    const directory = await client.mkdir(ROOT, 'directory');
    const file = await client.create(directory.nodeid, 'file');
    await client.write(file.entry.nodeid, file.open.fh, 0, Buffer.from('content'));
    await client.release(file.entry.nodeid, file.open.fh);
    const gone = await client.mkdir(ROOT, 'gone');
    const moved = await client.mkdir(directory.nodeid, 'before');
    await client.rename(directory.nodeid, 'before', ROOT, 'moved');
    await client.rmdir(ROOT, 'gone');
    const known = [directory, file.entry, moved];
    if (name === 'an overlay') known.push(await client.lookup(ROOT, 'below'));
    for (const { nodeid } of [...known, gone]) await client.forget(nodeid, 1n);
    assert.equal(running.export.nodes.size, 1);

    const bytes = await saveExport(running.export, [saveSession.bind(undefined, session)]);
    await session.close();
    await running.export.close();
    const log = new MemoryLog();
    const next = await restoreExport(serve(folder), bytes, { log, createBuffer: hostBuffer, limits });
    const back = await restoreSession(next, next.sessions[0]!);
    next.finish();
    const again = new FuseClient(new Loopback(back));
    for (const { nodeid, generation } of known) {
      const found = await again.lookup(nodeid, '.');
      assert.deepEqual([found.nodeid, found.generation], [nodeid, generation]);
    }
    const opened = await again.open(file.entry.nodeid, 2);
    assert.equal(Buffer.from(await again.read(file.entry.nodeid, opened.fh, 0, 99)).toString(), 'content');
    assert.equal((await again.lookup(directory.nodeid, 'file')).nodeid, file.entry.nodeid);
    await rejectsWith(again.lookup(gone.nodeid, '.'), ESTALE);
    await back.close();
    await next.export.close();
  });
