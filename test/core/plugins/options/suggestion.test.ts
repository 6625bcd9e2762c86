import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import fc from 'fast-check';
import { closestWord, suggestion } from '../../../../core/plugins/index.js';
import { checkProperty } from '../../../support/random.js';

const words = ['memfs', 'passthrough', 'overlay', 's3', 'sharedDir'];

test('a word with a letter wrong, missing, added or swapped finds the one that was meant', () => {
  for (const [typed, meant] of [
    ['memf', 'memfs'],
    ['mefms', 'memfs'],
    ['passtrough', 'passthrough'],
    ['overlays', 'overlay'],
    ['shareddir', 'sharedDir'],
  ] as const) {
    assert.equal(closestWord(typed, words), meant);
  }
});

test('a word that is far from all finds nothing', () => {
  assert.equal(closestWord('kubernetes', words), undefined);
  assert.equal(suggestion('kubernetes', words), '');
});

test('every word is nearest to itself, and to itself with one edit in a long word', async (t) => {
  await checkProperty(
    t,
    fc.property(fc.constantFrom(...words), fc.nat(10), (word, at) => {
      assert.equal(closestWord(word, words), word);
      const position = at % word.length;
      if (word.length > 4)
        assert.equal(closestWord(word.slice(0, position) + word.slice(position + 1), words), word);
    }),
  );
});
