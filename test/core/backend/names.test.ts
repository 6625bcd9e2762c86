import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeName, encodeName, nameBytes, nameLength } from '../../../core/backend/index.js';
import { checkProperty } from '../../support/random.js';

test('every byte string survives decoding and encoding', async (t) => {
  await checkProperty(
    t,
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const name = decodeName(bytes);
      assert.equal(nameLength(name), bytes.length);
      assert.deepEqual(nameBytes(name), bytes);
    }),
    { numRuns: 5000 },
  );
});

test('byte strings made of pieces of UTF-8 survive, overlong forms and surrogates included', async (t) => {
  const piece = fc.constantFrom(
    [0xc0, 0x80],
    [0xed, 0xa0, 0x80],
    [0xed, 0xb2, 0x80],
    [0xf4, 0x90, 0x80, 0x80],
    [0xf0, 0x9f, 0x98, 0x80],
    [0xf0, 0x9f, 0x98],
    [0xe2, 0x82, 0xac],
    [0xe2, 0x82],
    [0xef, 0xbb, 0xbf],
    [0xc3, 0xa9],
    [0xff],
    [0x61],
  );
  await checkProperty(
    t,
    fc.property(fc.array(piece, { maxLength: 40 }), (pieces) => {
      const bytes = Uint8Array.from(pieces.flat());
      assert.deepEqual(nameBytes(decodeName(bytes)), bytes);
    }),
    { numRuns: 5000 },
  );
});

/**
 * Any code point that UTF-8 has, so no surrogate. (The units that `fc.string` has for this build a
 * table of all of them, which takes seconds.)
 */
const SURROGATES = { first: 0xd800, count: 0x800 };
const codePoint = fc
  .integer({ min: 0, max: 0x10ffff - SURROGATES.count })
  .map((index) => (index < SURROGATES.first ? index : index + SURROGATES.count));

test('valid UTF-8 decodes as UTF-8, a byte order mark included', async (t) => {
  await checkProperty(
    t,
    fc.property(fc.array(codePoint), (codePoints) => {
      const text = String.fromCodePoint(...codePoints);
      const bytes = new TextEncoder().encode(text);
      assert.equal(decodeName(bytes), text);
      assert.deepEqual(nameBytes(text), bytes);
    }),
    { numRuns: 5000 },
  );
});

test('an invalid byte decodes to its own surrogate', () => {
  assert.equal(decodeName(Uint8Array.of(0x61, 0xff, 0x62)), 'a\udcffb');
  assert.equal(decodeName(Uint8Array.of(0x80)), '\udc80');
});

test('only the part between start and end is decoded', () => {
  const bytes = new TextEncoder().encode('xxnaïvexx');
  assert.equal(decodeName(bytes, 2, bytes.length - 2), 'naïve');
  assert.equal(decodeName(bytes, 0, 0), '');
});

test('a surrogate that no byte decodes to is written as the replacement character', () => {
  assert.deepEqual(nameBytes('\ud800'), Uint8Array.of(0xef, 0xbf, 0xbd));
  assert.equal(nameLength('\ud800'), 3);
});

test('a name that does not fit is refused, and nothing is written past the end', () => {
  assert.throws(() => encodeName('abc', new Uint8Array(2)), RangeError);
  assert.throws(() => encodeName('aé', new Uint8Array(2)), RangeError);
  assert.equal(encodeName('aé', new Uint8Array(4), 1), 4);
});
