import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Backend, UsageError } from '../../../../core/backend/index.js';
import { overlay as createOverlay, type OverlaySettings } from '../../../../backends/overlay/index.js';
import { defaults, Paths, share, onHost } from '../support.js';

const child = fileURLToPath(new URL('../claim-child.js', import.meta.url));

function mount(directory: string, settings: Partial<OverlaySettings> = {}): Promise<Paths> {
  const [upper, lower] = ['upper', 'lower'].map((name) => share(join(directory, name)));
  return Paths.mount(createOverlay({ ...defaults, upper, lowers: [lower!], ...settings }) as Backend);
}

function isInUse(error: unknown): boolean {
  return error instanceof UsageError && error.message.includes('in use by another mount');
}

test('an upper is used by one mount at a time, whatever its work area', () =>
  onHost(async (directory) => {
    const first = await mount(directory, { upperPath: ['data'], workPath: ['work'] });
    await first.write('/file', 'first');
    const refused = [
      { upperPath: ['data'], workPath: ['work'] },
      { upperPath: ['data'], workPath: ['other'] },
      { upperPath: ['other'], workPath: ['work'] },
    ].map((paths) => assert.rejects(mount(directory, paths), isInUse));
    await Promise.all(refused);
    const beside = await mount(directory, { upperPath: ['beside'], workPath: ['beside-work'] });
    await first.write('/file', 'second');
    await beside.backend.unmount!();
    await first.backend.unmount!();
    const again = await mount(directory, { upperPath: ['data'], workPath: ['work'] });
    assert.equal(await again.read('/file'), 'second');
    await again.backend.unmount!();
  }));

test('a mount waits a moment for the former one to end', () =>
  onHost(async (directory) => {
    const first = await mount(directory);
    await first.write('/file', 'first');
    const second = mount(directory);
    await new Promise((resolve) => setTimeout(resolve, 10));
    await first.backend.unmount!();
    const paths = await second;
    assert.equal(await paths.read('/file'), 'first');
    await paths.backend.unmount!();
  }));

test('another process is kept out, leaves temporaries alone, and gets in after a crash', () =>
  onHost(async (directory) => {
    const other = spawn(process.execPath, [child, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
    await once(other.stdout, 'data');
    const temporaries = join(directory, 'upper/.virtiofs-kit-work/work');
    mkdirSync(join(temporaries, '#1'));
    await assert.rejects(mount(directory), isInUse);
    assert.deepEqual(readdirSync(temporaries), ['#1']);
    other.kill('SIGKILL');
    await once(other, 'exit');
    const paths = await mount(directory);
    assert.deepEqual(readdirSync(temporaries), []);
    await paths.backend.unmount!();
  }));
