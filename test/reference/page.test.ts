import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { backendMethods } from '../../core/backend/index.js';
import { PAGE, referencePage } from './page.js';

test('docs/backend-reference.md is what the doc comments make: else run npm run docs', () => {
  assert.equal(readFileSync(PAGE, 'utf8'), referencePage());
});

test('the reference has every method of a backend', () => {
  const page = referencePage();
  for (const method of backendMethods) {
    assert.ok(page.includes(`\n#### Backend.${method}\n`), method);
  }
});
