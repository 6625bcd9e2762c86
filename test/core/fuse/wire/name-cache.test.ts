import { strict as assert } from 'node:assert';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { decodeName } from '../../../../core/backend/index.js';
import { NameCache } from '../../../../core/fuse/wire/name-cache.js';
import { checkProperty } from '../../../support/random.js';

describe('a name cache', () => {
  it('gives what decoding gives, for any bytes, seen before or not', async (t) => {
    const cache = new NameCache();
    const byte = fc.oneof(fc.constantFrom(0x61, 0x62, 0xc3, 0xa9, 0xff), fc.integer({ min: 1, max: 255 }));
    const name = fc.array(byte, { maxLength: 80 });
    await checkProperty(
      t,
      fc.property(fc.array(name, { minLength: 1, maxLength: 50 }), fc.nat(20), (names, gap) => {
        for (const each of [...names, ...names]) {
          const bytes = Uint8Array.from([...new Uint8Array(gap), ...each, 0]);
          const decoded = cache.decode(bytes, gap, gap + each.length);
          assert.equal(decoded, decodeName(Uint8Array.from(each)));
        }
      }),
    );
  });

  it('tells bytes that are no UTF-8 from the letters that have their numbers', () => {
    const cache = new NameCache();
    const latin = Uint8Array.of(0xe9);
    const utf8 = Uint8Array.of(0xc3, 0xa9);
    for (let turn = 0; turn < 2; turn++) {
      assert.equal(cache.decode(latin, 0, 1), '\udce9');
      assert.equal(cache.decode(utf8, 0, 2), 'é');
    }
  });

  it('gives every name back although more are asked for than it has places', () => {
    const cache = new NameCache();
    for (let turn = 0; turn < 2; turn++) {
      for (let i = 0; i < 5000; i++) {
        const bytes = new TextEncoder().encode(`file-${i}`);
        assert.equal(cache.decode(bytes, 0, bytes.length), `file-${i}`);
      }
    }
  });
});
