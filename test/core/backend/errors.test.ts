import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { test } from 'node:test';
import { deviceMajor, deviceMinor, Errno, FsError, makeDevice } from '../../../core/backend/index.js';

test('the error numbers are the ones that the host kernel uses', () => {
  const host = constants.errno as Record<string, number>;
  let compared = 0;
  for (const [name, value] of Object.entries(Errno)) {
    if (host[name] === undefined) continue;
    assert.equal(value, host[name], name);
    compared += 1;
  }
  assert.ok(compared > 40);
});

test('an error is one shared instance for each number, by name or by number', () => {
  assert.equal(FsError.of('ENOENT'), FsError.of(2));
  assert.equal(FsError.of('ENOENT').code, 'ENOENT');
  assert.equal(FsError.of(130).code, 'E130');
  assert.ok(FsError.of(2) instanceof Error);
});

test('a number that Linux would not take in a reply is refused', () => {
  for (const bad of [0, -2, 4096, 1.5, Number.NaN]) assert.throws(() => FsError.of(bad), RangeError);
});

test('a device number survives encoding, up to 12 bits of major and 20 of minor', () => {
  for (const [major, minor] of [
    [0, 0],
    [8, 1],
    [0xfff, 0xfffff],
    [259, 70000],
  ] as const) {
    const encoded = makeDevice(major, minor);
    assert.ok(encoded >= 0 && encoded <= 0xffffffff);
    assert.equal(deviceMajor(encoded), major);
    assert.equal(deviceMinor(encoded), minor);
  }
});
