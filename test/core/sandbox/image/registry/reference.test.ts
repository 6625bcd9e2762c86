import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UsageError } from '../../../../../core/backend/index.js';
import { referenceOf } from '../../../../../core/sandbox/image/registry/reference.js';

const digest = `sha256:${'0a'.repeat(32)}`;

test('places in registries are read as Docker reads them', () => {
  const cases: readonly (readonly [string, string, string, string])[] = [
    ['docker://alpine', 'docker.io', 'library/alpine', 'latest'],
    ['docker://alpine:3.20', 'docker.io', 'library/alpine', '3.20'],
    ['docker://me/app', 'docker.io', 'me/app', 'latest'],
    ['docker://docker.io/me/app:x', 'docker.io', 'me/app', 'x'],
    ['docker://registry.example/a/b/c__d:V1.0', 'registry.example', 'a/b/c__d', 'V1.0'],
    ['docker://registry.example:5000/app', 'registry.example:5000', 'app', 'latest'],
    ['registry.example/app:1', 'registry.example', 'app', '1'],
    ['host:5000/app', 'host:5000', 'app', 'latest'],
    ['localhost/app', 'localhost', 'app', 'latest'],
    ['docker://[::1]:5000/app', '[::1]:5000', 'app', 'latest'],
    [`registry.example/app@${digest}`, 'registry.example', 'app', digest],
    [`docker://app:1@${digest}`, 'docker.io', 'library/app', digest],
  ];
  for (const [place, registry, repository, version] of cases)
    assert.deepEqual(referenceOf(place), { registry, repository, version }, place);
});

test('other places are none', () => {
  const paths = [
    '/a.b/c',
    './a.b/c',
    '../a.b/c',
    'layout',
    'layout:tag',
    'dir/layout:tag',
    'a.b',
    '.a/b',
    '',
  ];
  for (const place of paths) assert.equal(referenceOf(place), undefined, place);
  const damaged = [
    '',
    'App',
    'a..b',
    'registry.example/',
    'registry.example/app:',
    'registry.example/app:../x',
    'registry.example/../app',
    'registry.example/app@sha256:0',
    `registry.example/app@${digest}@${digest}`,
    'user@registry.example/app',
    'registry.example:port/app',
    `registry.example/${'a/'.repeat(1000)}a`,
  ];
  for (const place of damaged) assert.throws(() => referenceOf(`docker://${place}`), UsageError, place);
});
