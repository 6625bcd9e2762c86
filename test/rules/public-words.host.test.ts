import assert from 'node:assert/strict';
import { join, relative } from 'node:path';
import { test } from 'node:test';
import type { Project } from 'typescript/unstable/sync';
import { SyntaxKind, type Node, type SourceFile } from 'typescript/unstable/ast';
import { withCompiler } from '../support/compiler.js';
import { root } from '../support/documents.js';

/** What the package exports. */
const MODULES = ['core/index.ts', 'core/accelerator.ts', 'core/contract/index.ts', 'backends/memfs/index.ts'];

const HIDDEN: readonly SyntaxKind[] = [SyntaxKind.PrivateKeyword, SyntaxKind.OverrideKeyword];

type Declaration = Node & {
  readonly name?: Node & { readonly text?: string };
  readonly members?: readonly Declaration[];
  readonly modifiers?: readonly Node[];
};

function isPublic({ name, modifiers = [] }: Declaration): boolean {
  if (name === undefined || name.kind === SyntaxKind.PrivateIdentifier) return false;
  return !modifiers.some(({ kind }) => HIDDEN.includes(kind));
}

/** The statement of its file that a node belongs to. */
function statementOf(node: Node): Node {
  return node.parent.kind === SyntaxKind.SourceFile ? node : statementOf(node.parent);
}

function hasWords({ text }: SourceFile, { pos, end }: Node): boolean {
  return /^\s*(?:\/\/.*\n\s*)*\/\*\*/.test(text.slice(pos, end));
}

/** The exports of a module, and their public members, that have no comment. */
function wordless({ program, checker }: Project, module: string): string[] {
  const source = program.getSourceFile(join(root, module))!;
  const found: string[] = [];
  for (const exported of checker.getExportsOfModule(checker.getSymbolAtLocation(source)!)) {
    const isAlias = exported.declarations.some(({ kind }) => kind === SyntaxKind.ExportSpecifier);
    for (const declaration of (isAlias ? checker.getAliasedSymbol(exported) : exported).declarations) {
      const node = declaration.resolve() as Declaration;
      const statement = statementOf(node);
      const file = statement.parent as SourceFile;
      const path = relative(root, file.fileName);
      if (path.startsWith('node_modules')) continue;
      if (!hasWords(file, statement)) found.push(`${path}: ${exported.name}`);
      for (const member of node.members ?? [])
        if (isPublic(member) && !hasWords(file, member))
          found.push(`${path}: ${exported.name}.${member.name?.text ?? '[…]'}`);
    }
  }
  return found;
}

test('everything that the package exports has words, and so has each of its public members', () => {
  const found = withCompiler((project) => MODULES.flatMap((module) => wordless(project, module)));
  assert.deepEqual([...new Set(found)], []);
});
