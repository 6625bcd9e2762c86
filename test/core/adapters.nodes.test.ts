import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PathNodes } from '../../core/adapters/path-nodes.js';
import { FileType, FsError } from '../../core/backend/index.js';

const file = (identity: string) => ({ identity, mode: FileType.REGULAR });
const directory = (identity: string) => ({ identity, mode: FileType.DIRECTORY });

test('a file is where it was found last, though others move it to and fro', () => {
  const nodes = new PathNodes();
  const node = nodes.found(nodes.root, 'a', file('1'));
  assert.equal(nodes.found(nodes.root, 'b', file('1')), node);
  assert.equal(nodes.pathOf(node), '/b');
  assert.equal(nodes.found(nodes.root, 'a', file('1')), node);
  assert.equal(nodes.pathOf(node), '/a');
});

test('what has the number of another file, and another type, is a new file', () => {
  const nodes = new PathNodes();
  const node = nodes.found(nodes.root, 'a', directory('1'));
  const link = nodes.found(nodes.root, 'a', { identity: '1', mode: FileType.SYMLINK });
  assert.notEqual(link, node);
  assert.throws(() => nodes.pathIn(link, 'name'), FsError.of('ENOTDIR'));
});

test('a forgotten file that has names in two forgotten directories keeps neither', () => {
  const nodes = new PathNodes();
  const parents = ['a', 'b'].map((name) => nodes.found(nodes.root, name, directory(name)));
  const [node] = parents.map((parent) => nodes.found(parent, 'file', file('1')));
  for (const parent of parents) nodes.forget(parent);
  assert.equal(nodes.root.children.size, 2);
  nodes.forget(node!);
  assert.equal(nodes.root.children.size, 0);
});

test('directories that seem to be in each other have no path', () => {
  const nodes = new PathNodes();
  const a = nodes.found(nodes.root, 'a', directory('a'));
  const b = nodes.found(a, 'b', directory('b'));
  nodes.found(b, 'a', directory('a'));
  assert.throws(() => nodes.pathOf(a), FsError.of('ESTALE'));
});
