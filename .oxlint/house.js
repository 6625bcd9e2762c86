/*
 * Lint rules of this repository, for oxlint (.oxlintrc.json).
 *
 *   house/rooms            an import that the table of docs/architecture.md does not allow
 *   house/comment-width    a line of a comment that is wider than 100 columns
 */
import { readFileSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';

const manual = readFileSync(join(import.meta.dirname, '..', 'docs', 'architecture.md'), 'utf8');

/** What each room may import, from the manual's table: `core/x`, `backends/x` or `examples`. */
const allowed = new Map(
  [...manual.matchAll(/^\| `([a-z0-9./*-]+)`\s*\|([^|]*)\|/gm)].map(([, room, list]) => [
    room,
    new Set([...list.matchAll(/`([a-z0-9./*-]+)`/g)].map(([, name]) => name)),
  ]),
);

/** The room of a file, by its path below the top level. */
function roomOf(path) {
  const [top, name, inside] = path.split(sep);
  if (top === 'examples') return 'examples';
  if ((top === 'core' || top === 'backends') && inside !== undefined) return `${top}/${name}`;
  if (top === 'core') return 'core/index.ts';
  return top === 'test' ? 'test' : undefined;
}

function mayImport(from, to) {
  if (from === to || from === 'test') return true;
  const list = allowed.get(from) ?? allowed.get(from.replace(/\/.*/, '/*')) ?? new Set();
  return list.has(to) || list.has(to.replace(/\/.*/, '/*'));
}

const rooms = {
  create(context) {
    const from = roomOf(relative(context.cwd, context.filename));
    if (from === undefined) return {};
    const check = (node) => {
      const source = node.source?.value;
      if (typeof source !== 'string' || !source.startsWith('.')) return;
      const to = roomOf(relative(context.cwd, join(dirname(context.filename), source)));
      if (to === undefined || mayImport(from, to)) return;
      context.report({ node, message: `${from} may not import ${to} (docs/architecture.md, "Rooms")` });
    };
    return {
      ImportDeclaration: check,
      ExportNamedDeclaration: check,
      ExportAllDeclaration: check,
      ImportExpression: check,
    };
  },
};

const COLUMNS = 100;

const commentWidth = {
  create(context) {
    return {
      Program() {
        for (const comment of context.sourceCode.getAllComments()) {
          const { start, end } = comment.loc;
          for (let line = start.line; line <= end.line; line++) {
            const text = context.sourceCode.lines[line - 1];
            if (text.length <= COLUMNS || /https?:\/\/\S{60}/.test(text)) continue;
            context.report({
              loc: { start: { line, column: COLUMNS }, end: { line, column: text.length } },
              message: `This comment is ${text.length} columns wide: wrap it at ${COLUMNS}`,
            });
          }
        }
      },
    };
  },
};

export default { meta: { name: 'house' }, rules: { rooms, 'comment-width': commentWidth } };
