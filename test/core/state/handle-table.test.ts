import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { HandleKind, HandleTable, NO_HANDLE } from '../../../core/state/index.js';
import { withPlainNumbers } from '../../support/plain-numbers.js';

describe('a handle table', () => {
  it('finds a handle by its fh and kind only', () => {
    const handles = withPlainNumbers(new HandleTable(10));
    const file = {};
    const index = handles.open(HandleKind.FILE, 7, file, 2);
    const generation = handles.generation(index);
    assert.equal(handles.find(index, generation, HandleKind.FILE), index);
    assert.equal(handles.find(index, generation, HandleKind.DIRECTORY), NO_HANDLE);
    assert.equal(handles.find(index, generation + 1, HandleKind.FILE), NO_HANDLE);
    assert.equal(handles.find(-1, generation, HandleKind.FILE), NO_HANDLE);
    assert.equal(handles.find(0x7fffffff, generation, HandleKind.FILE), NO_HANDLE);
    assert.equal(handles.object(index), file);
    assert.equal(handles.slot(index), 7);
    assert.equal(handles.flags(index), 2);
    assert.equal(handles.isDirectory(index), false);
  });

  it('reuses places under new generations', () => {
    const handles = withPlainNumbers(new HandleTable(10));
    const index = handles.open(HandleKind.FILE, 1, 'a', 0);
    const generation = handles.generation(index);
    assert.equal(handles.invalidate(index), true);
    assert.equal(handles.find(index, generation, HandleKind.FILE), NO_HANDLE);
    handles.free(index);
    assert.equal(handles.open(HandleKind.DIRECTORY, 1, 'b', 0), index);
    assert.equal(handles.find(index, generation, HandleKind.DIRECTORY), NO_HANDLE);
    assert.equal(handles.find(index, handles.generation(index), HandleKind.DIRECTORY), index);
  });

  it('closes a handle after the last request that uses it', () => {
    const handles = withPlainNumbers(new HandleTable(10));
    const index = handles.open(HandleKind.FILE, 1, 'a', 0);
    handles.use(index);
    handles.use(index);
    assert.equal(handles.invalidate(index), false);
    assert.equal(handles.size, 1);
    assert.equal(handles.unuse(index), false);
    assert.equal(handles.unuse(index), true);
    handles.free(index);
    assert.equal(handles.size, 0);
    const other = handles.open(HandleKind.FILE, 1, 'b', 0);
    handles.use(other);
    assert.equal(handles.unuse(other), false);
  });

  it('is full at its limit, and grows up to it', () => {
    const handles = withPlainNumbers(new HandleTable(500));
    for (let i = 0; i < 500; i++) assert.equal(handles.open(HandleKind.FILE, i, `file ${i}`, 0), i);
    assert.equal(handles.full, true);
    assert.equal(handles.open(HandleKind.FILE, 1, 'more', 0), NO_HANDLE);
    assert.equal(handles.object(499), 'file 499');
    assert.equal(handles.slot(499), 499);
    let seen = 0;
    handles.each((index) => {
      seen += 1;
      handles.invalidate(index);
      handles.free(index);
    });
    assert.equal(seen, 500);
    assert.equal(handles.size, 0);
  });
});
