import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/*
 * Makes docs/backend-reference.md of the doc comments in core/backend. A plain reading of the text
 * is enough: prettier lays the files out, so that a declaration begins in column 0, a member in
 * column 2, and each has its comment right above it.
 */

export const root = dirname(fileURLToPath(import.meta.resolve('virtiofs-kit/package.json')));
export const PAGE = join(root, 'docs', 'backend-reference.md');

/** The files in the order of the page; a title where the file has no essay of its own. */
const chapters: readonly (readonly [file: string, title?: string])[] = [
  ['backend.ts'],
  ['attributes.ts', 'Attributes'],
  ['context.ts', 'Context'],
  ['buffer.ts', 'Buffers'],
  ['flags.ts', 'Flags'],
  ['errors.ts', 'Errors'],
  ['names.ts', 'Names'],
  ['awaitable.ts', 'Values and promises'],
  ['host.ts', 'What the engine offers'],
  ['metric.ts', 'Metrics'],
  ['plugin.ts', 'Plugins'],
  ['wrap.ts', 'Wrapping'],
  ['read-only.ts', 'Read-only'],
  ['methods.ts', 'Names of methods'],
  ['accelerator.ts'],
];

const HEAD = `# Backend reference

Made of the doc comments in \`core/backend\` by \`npm run docs\`. To begin with, read
[writing-a-backend.md](writing-a-backend.md).
`;

/** A declaration or member: its comment, and its text without a body. */
interface Item {
  readonly name: string;
  readonly comment: string;
  readonly code: string;
}

/** The page, as it is to be. @throws Error that names every public item without words. */
export function referencePage(): string {
  const bare: string[] = [];
  const parts = chapters.map(([file, title]) => chapter(file, title, bare));
  if (bare.length > 0) throw new Error(`without a doc comment: ${bare.join(', ')}`);
  return [HEAD, ...parts].join('\n');
}

function chapter(file: string, title: string | undefined, bare: string[]): string {
  const text = readFileSync(join(root, 'core', 'backend', file), 'utf8');
  const essay = /^\/\*\*\n([\s\S]*?)\n \*\/\n(?=import )/.exec(text)?.[1];
  const out =
    essay === undefined ? [`## ${title ?? file}\n`] : [`${prose(essay).replaceAll(/^#/gm, '##')}\n`];
  for (const item of declarations(text)) {
    if (item.comment === '') bare.push(`${file}: ${item.name}`);
    const kind = /^export (?:abstract )?(interface|class)/.exec(item.code)?.[1];
    const heading = item.code.slice(0, item.code.indexOf('{')).trim();
    const shown = kind === undefined ? item.code : `${heading.replace('export ', '')} { … }`;
    out.push(`### ${item.name}\n`, `${fence(shown.replace(/^export /, ''))}\n`, `${prose(item.comment)}\n`);
    if (kind === undefined) continue;
    for (const member of members(item.code)) {
      if (member.comment === '') bare.push(`${file}: ${item.name}.${member.name}`);
      out.push(`#### ${item.name}.${member.name}\n`, `${fence(member.code)}\n`, `${prose(member.comment)}\n`);
    }
  }
  return out.join('\n');
}

/** What a file exports. The text of an interface or class is whole, that of a function its head. */
function declarations(text: string): Item[] {
  const pattern =
    /(?:^\/\*\*((?:(?!\*\/)[\s\S])*?)\*\/\n)?^export (?:async )?(?:abstract )?(interface|class|const|function\*?|type) (\w+)/gm;
  return [...text.matchAll(pattern)].map((match) => {
    const [all, comment = '', kind = '', name = ''] = match;
    const rest = text.slice(match.index + all.indexOf('export '));
    const isFunction = kind.startsWith('function');
    const end = isFunction ? /\s\{\n/ : kind === 'interface' || kind === 'class' ? /^\}|\{\}$/m : /;$/m;
    const found =
      kind === 'const' && /^export const \w+[^\n]*\{$/m.test(rest.split('\n')[0]!) ? /^\}[^\n]*;$/m : end;
    const at = found.exec(rest)!;
    return { name, comment, code: rest.slice(0, at.index + (isFunction ? 0 : at[0].length)) };
  });
}

/** The public members of an interface or class. */
function members(code: string): Item[] {
  const pattern =
    /(?:^ {2}\/\*\*((?:(?!\*\/)[\s\S])*?)\*\/\n)?^ {2}((?!private |#|constructor|override |static readonly #)(?:static |readonly )*(\[?\w+[\w.]*\]?)\??[:(<][\s\S]*?)(?:;| \{)$/gm;
  const found: Item[] = [];
  for (const [, comment = '', text = '', name = ''] of code.matchAll(pattern)) {
    found.push({ name: name.replace('[', ''), comment, code: text.replaceAll(/^ {2}/gm, '') });
  }
  return found;
}

function fence(code: string): string {
  return `\`\`\`ts\n${code.trim()}\n\`\`\``;
}

/** A doc comment as Markdown: tags become a list. */
function prose(comment: string): string {
  const lines = comment.split('\n').map((line) => line.replace(/^\s*\* ?/, '').trimEnd());
  const text = lines
    .join('\n')
    .replaceAll(/\{@link\s+([^}]+)\}/g, '`$1`')
    .trim();
  const [body = '', ...tags] = text.split(
    /\s@(?=param|returns|throws|typeParam)|^@(?=param|returns|throws|typeParam)/,
  );
  const list = tags.map((tag) => {
    const [, kind, name, words = ''] =
      /^(param|typeParam|returns|throws)(?:(?<=aram)\s+(\S+))?\s+([\s\S]*)$/.exec(tag)!;
    const label = name === undefined ? `**${kind!}**` : `\`${name}\``;
    return `- ${label}: ${words.trim().replaceAll('\n', '\n  ')}`;
  });
  return [body.trim(), list.join('\n')].filter((part) => part !== '').join('\n\n');
}
