import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { faultyMount } from '../support/faulty-mounts.js';
import { flood, MOST_MS } from './log-flood.js';

test('a file whose file system hangs holds up nothing, and is written again when that goes on', async (t) => {
  const mount = await faultyMount(t);
  const path = join(mount.directory, 'log');
  const fd = openSync(path, 'a');
  await mount.order({ methods: ['write'], hang: true });
  const logging = await flood(fd);
  closeSync(fd);
  assert.ok(logging.most < MOST_MS, `${logging.most} ms`);
  await mount.order({ methods: [] });
  const text = (): string => readFileSync(path, 'utf8');
  while (!text().includes('lines of the log were lost')) await sleep(20);
  while (!text().includes('still here')) await sleep(20);
  const lines = text().split('\n').slice(0, -1);
  const told = lines.map((line) => JSON.parse(line) as { line?: number; count?: number });
  const kept = told.filter(({ line }) => line !== undefined).length;
  const lost = told.reduce((sum, { count = 0 }) => sum + count, 0);
  assert.ok(lost > 0 && kept + lost >= logging.lines, `${kept} + ${lost} of ${logging.lines}`);
  await logging.end();
});
