import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { decodeName, nameBytes, nameLength } from '../../../../core/backend/index.js';
import { decodePart, encodePart, KeyMap } from '../../../../backends/s3/objects/keys.js';
import { checkProperty } from '../../../support/random.js';

describe('keys and names', () => {
  const name = fc
    .uint8Array({ minLength: 1, maxLength: 40 })
    .map((bytes) => decodeName(bytes.map((byte) => (byte === 0 || byte === 0x2f ? 0x41 : byte))));
  const tricky = fc
    .array(fc.constantFrom('\u201b', '80', 'FF', '8', 'F', '\udc80', '\udcff', 'a', 'é', '😀', '%', ' '), {
      minLength: 1,
      maxLength: 8,
    })
    .map((parts) => decodeName(nameBytes(parts.join(''))));
  const valid = fc
    .oneof(name, tricky)
    .filter((text) => text !== '.' && text !== '..' && nameLength(text) <= 255);

  it('every name comes back from its key, and the key is UTF-8', async (t) => {
    await checkProperty(
      t,
      fc.property(valid, (text) => {
        const part = encodePart(text);
        assert.equal(Buffer.from(part).toString(), part);
        assert.equal(decodePart(part), text);
      }),
      { numRuns: 2000 },
    );
  });

  it('two names never share a key', async (t) => {
    await checkProperty(
      t,
      fc.property(valid, valid, (a, b) => {
        fc.pre(a !== b);
        assert.notEqual(encodePart(a), encodePart(b));
      }),
      { numRuns: 2000 },
    );
  });

  it('UTF-8 names are their own keys, so that other tools see them as they are', () => {
    for (const text of ['a', 'Grüße', '日本 😀', '100%', 'a+b', '\u201b', '\u201bxx']) {
      assert.equal(encodePart(text), text);
    }
  });

  it('parts that no name stands for are told', () => {
    for (const part of ['', '.', '..', 'a\0b', 'x'.repeat(256), '\u201bC3\u201bA9']) {
      assert.equal(decodePart(part), undefined);
    }
  });

  it('a prefix is a directory whether or not it is written with slashes', () => {
    assert.equal(new KeyMap('/a/b/').file('c'), 'a/b/c');
    assert.equal(new KeyMap('a/b').directory(''), 'a/b/');
    assert.equal(new KeyMap('').directory(''), '');
    assert.equal(new KeyMap('').directory('x/y'), 'x/y/');
  });
});
