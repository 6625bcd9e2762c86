import assert from 'node:assert/strict';
import { relative } from 'node:path';
import { test } from 'node:test';
import type { NodeHandle, Project } from 'typescript/unstable/sync';
import { SyntaxKind, type Identifier, type Node } from 'typescript/unstable/ast';
import { withCompiler } from '../support/compiler.js';
import { root } from '../support/documents.js';

/*
 * What only tests use does not belong into the product. The compiler says which declaration each
 * name in the sources stands for. A member of a class is unused if nothing but its declaration
 * stands for it. Two ways to use a member do not lead to its declaration, and are told by the name
 * alone: through an interface, and in a pattern such as `const { name } = object`.
 */

/** Members that are for users of the package, and for the npm package memfs, which calls them. */
const EXCEPTIONS: Readonly<Record<string, readonly string[]>> = {
  'backends/memfs/host-api/volume.ts': ['fromJSON'],
  'backends/overlay/host-files.ts': ['rm'],
  'core/sandbox/sandbox.ts': ['shell'],
};

/** Their members are what the npm package memfs calls of its own classes. */
const OF_MEMFS = /^backends\/memfs\/host-api\/(node-view|link-view|superblock)\.ts$/;

const MEMBERS: readonly SyntaxKind[] = [
  SyntaxKind.MethodDeclaration,
  SyntaxKind.PropertyDeclaration,
  SyntaxKind.GetAccessor,
  SyntaxKind.SetAccessor,
];

const SIGNATURES: readonly SyntaxKind[] = [SyntaxKind.MethodSignature, SyntaxKind.PropertySignature];

function identifiersOf(node: Node, found: Identifier[] = []): Identifier[] {
  if (node.kind === SyntaxKind.Identifier) found.push(node as Identifier);
  node.forEachChild((child) => void identifiersOf(child, found));
  return found;
}

/** Whether the identifier is the name in the declaration of a class's member. */
function declaresMember(identifier: Identifier): boolean {
  const parent: Node & { readonly name?: Node } = identifier.parent;
  return (
    MEMBERS.includes(parent.kind) &&
    parent.name === identifier &&
    parent.parent.kind === SyntaxKind.ClassDeclaration
  );
}

const idOf = ({ path, index }: NodeHandle): string => `${path}:${index}`;

/** The members of classes below `folders` that nothing there mentions, as `file: name`. */
function unusedMembers({ program, checker }: Project, folders: readonly string[]): string[] {
  const declared = new Map<string, { readonly file: string; readonly name: string }>();
  const used = new Set<string>();
  /** Names in interfaces and patterns. */
  const mentioned = new Set<string>();
  for (const path of program.getSourceFileNames()) {
    const file = relative(root, path);
    if (!folders.some((folder) => file.startsWith(`${folder}/`))) continue;
    const identifiers = identifiersOf(program.getSourceFile(path)!);
    const symbols = checker.getSymbolAtLocation(identifiers);
    for (const [index, identifier] of identifiers.entries()) {
      if (identifier.parent.kind === SyntaxKind.BindingElement) mentioned.add(identifier.text);
      const declaration = symbols[index]?.valueDeclaration;
      if (declaration === undefined) continue;
      const id = idOf(declaration);
      if (declaresMember(identifier)) declared.set(id, { file, name: identifier.text });
      else used.add(id);
      if (SIGNATURES.includes(declaration.kind)) mentioned.add(identifier.text);
    }
  }
  return [...declared]
    .filter(([id, { name }]) => !used.has(id) && !mentioned.has(name))
    .map(([, { file, name }]) => `${file}: ${name}`);
}

test('no class of the product has a member that only tests use', () => {
  const found = withCompiler((project) => unusedMembers(project, ['core', 'backends', 'examples'])).filter(
    (one) => {
      const [file, name] = one.split(': ');
      return !OF_MEMFS.test(file!) && EXCEPTIONS[file!]?.includes(name!) !== true;
    },
  );
  assert.deepEqual(found, []);
});
