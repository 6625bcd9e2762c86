import assert from 'node:assert/strict';
import { it } from 'node:test';
import { greediest } from '../../../../core/cli/detached-sandboxes/memory-guard.js';

const MIB = 2 ** 20;
const small = { name: 'small', bytes: 10 * MIB, files: 100 };
const manyFiles = { name: 'many files', bytes: 50 * MIB, files: 900 };
const manyBytes = { name: 'many bytes', bytes: 500 * MIB, files: 5 };
const all = [small, manyFiles, manyBytes];

it('nobody is ended while there is enough', () => {
  assert.equal(greediest(all, { mostFiles: 1005, isMemoryLow: false }), undefined);
  assert.equal(greediest([], { mostFiles: 0, isMemoryLow: true }), undefined);
});

it('who has the most files is ended where these are too many, and the most bytes where memory is low', () => {
  assert.equal(greediest(all, { mostFiles: 1004, isMemoryLow: false }), manyFiles);
  assert.equal(greediest(all, { mostFiles: 1005, isMemoryLow: true }), manyBytes);
  assert.equal(greediest(all, { mostFiles: 1004, isMemoryLow: true }), manyFiles);
});

it('those that have little are not ended for what others of the host use', () => {
  assert.equal(greediest([small, manyFiles], { mostFiles: 1005, isMemoryLow: true }), undefined);
});
