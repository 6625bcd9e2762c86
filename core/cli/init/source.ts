/** The backend, in TypeScript or JavaScript: the types are all that differs. */
export function backendSource(name: string, isTypeScript: boolean): string {
  const types = isTypeScript ? "import type { Attributes, Backend } from 'virtiofs-kit';\n" : '';
  const node = isTypeScript ? '\ninterface Node extends Attributes {\n  readonly content?: Buffer;\n}\n' : '';
  const signature = isTypeScript ? '(who: string): Backend<Node>' : '(who)';
  const asNode = isTypeScript ? ': Node' : '';
  return `import { definePlugin, FileType } from 'virtiofs-kit';
${types}import { z } from 'zod';
${node}
/**
 * A directory with one file in it. Replace it by what you have: each method that you add is one
 * more thing that guests can do.
 */
function backend${signature} {
  const root${asNode} = { mode: FileType.DIRECTORY | 0o555 };
  const content = Buffer.from(\`hello, \${who}\\n\`);
  const greeting${asNode} = { mode: FileType.REGULAR | 0o444, size: content.length, content };
  return {
    mount: () => root,
    lookup: (parent, name) =>
      parent === root && name === 'greeting' ? { node: greeting, attributes: greeting } : undefined,
    getattr: (node) => node,
    readdir: () => [{ name: 'greeting', type: FileType.REGULAR }],
    read(_node, _file, buffer, offset) {
      const part = content.subarray(offset, offset + buffer.length);
      buffer.put(0, part);
      return part.length;
    },
  };
}

export { backend };

export default definePlugin({
  name: '${name}',
  description: 'one file that greets',
  options: z.strictObject({
    who: z.string().default('world').describe('who is greeted').meta({ placeholder: 'NAME' }),
  }),
  create: ({ who }) => backend(who),
});
`;
}

/** The package's own file, as its test imports it. */
const ENTRY = '../index.js';

/** Its test: each rule of the contract is one. */
export const TEST_SOURCE = `import { test } from 'node:test';
import { testContract } from 'virtiofs-kit/contract';
import { backend } from '${ENTRY}';

testContract(test, { create: () => backend('world') });
`;
