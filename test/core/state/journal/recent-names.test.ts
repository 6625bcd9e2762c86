import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Backend } from '../../../../core/backend/index.js';
import { NO_SLOT, NodeTable, ROOT_SLOT } from '../../../../core/state/index.js';
import { NOT_RECENT } from '../../../../core/state/journal/index.js';
import { RecentNames } from '../../../../core/state/journal/recent-names.js';

function recentNames(): RecentNames {
  const root = {};
  const backend: Backend = {
    mount: () => root,
    lookup: () => undefined,
    getattr: () => ({ mode: 0o40755 }),
  };
  return new RecentNames(new NodeTable(backend, root, 1000, assert.ifError, false));
}

test('as many names are kept as there are places, however many a guest asks for', () => {
  const names = recentNames();
  const asked = Array.from({ length: 100_000 }, (_, i) => `name ${i}`);
  for (const name of asked) names.missing(ROOT_SLOT, name, names.version);
  const kept = asked.filter((name) => names.find(ROOT_SLOT, name) === NO_SLOT);
  assert.ok(kept.length > 1000 && kept.length <= 32_768, `${kept.length} names`);
  assert.equal(names.find(ROOT_SLOT, 'another'), NOT_RECENT);
});

test('numbered names do not take the places of each other', () => {
  const names = recentNames();
  const numbered = Array.from({ length: 2_000 }, (_, i) => `f${i}`);
  for (const name of numbered) names.missing(ROOT_SLOT, name, names.version);
  const lost = numbered.filter((name) => names.find(ROOT_SLOT, name) !== NO_SLOT);
  assert.ok(lost.length < 20, `${lost.length} names`);
});

test('what was found before another change began, or while one is under way, does not count', () => {
  const names = recentNames();
  const { version } = names;
  names.change(ROOT_SLOT, 'other');
  names.missing(ROOT_SLOT, 'late', version);
  assert.equal(names.find(ROOT_SLOT, 'late'), NOT_RECENT);
  names.missing(ROOT_SLOT, 'known', names.version);
  names.wait();
  names.missing(ROOT_SLOT, 'meanwhile', names.version);
  assert.equal(names.find(ROOT_SLOT, 'known'), NOT_RECENT);
  names.end();
  assert.equal(names.find(ROOT_SLOT, 'meanwhile'), NOT_RECENT);
  assert.equal(names.find(ROOT_SLOT, 'known'), NO_SLOT);
});
