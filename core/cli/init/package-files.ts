import { backendSource, TEST_SOURCE } from './source.js';

/** What the package is to be. */
export interface PackageOptions {
  /** A name that npm takes. */
  readonly name: string;
  readonly isTypeScript: boolean;
  /** The lowest versions of what the package needs. */
  readonly versions: { readonly kit: string; readonly zod: string };
}

/** The files of a package, by their names. */
export function packageFiles(options: PackageOptions): ReadonlyMap<string, string> {
  const { name, isTypeScript } = options;
  const ending = isTypeScript ? 'ts' : 'js';
  return new Map([
    ['package.json', packageJson(options)],
    [`index.${ending}`, backendSource(name, isTypeScript)],
    [`test/contract.test.${ending}`, TEST_SOURCE],
    ['README.md', readme(name)],
    ['.gitignore', 'node_modules\ndist\n'],
    ...(isTypeScript ? ([['tsconfig.json', TSCONFIG]] as const) : []),
  ]);
}

function packageJson({ name, isTypeScript, versions }: PackageOptions): string {
  const built = isTypeScript ? './dist/index.js' : './index.js';
  const run = (command: string): string =>
    `${isTypeScript ? 'npm run -s build && ' : ''}virtiofs-kit ${command} --backend ${built}`;
  const content = {
    name,
    version: '0.1.0',
    description: `A backend for virtiofs-kit`,
    type: 'module',
    exports: isTypeScript ? { types: './dist/index.d.ts', default: built } : built,
    files: isTypeScript ? ['dist/index.*'] : ['index.js'],
    scripts: {
      ...(isTypeScript ? { build: 'tsc -p .', prepack: 'npm run -s build' } : {}),
      test: isTypeScript ? 'npm run -s build && node --test dist/test/' : 'node --test test/',
      check: run('check-backend'),
      guest: run('guest'),
      mount: run('mount /mnt'),
    },
    peerDependencies: { 'virtiofs-kit': `^${versions.kit}` },
    dependencies: { zod: `^${versions.zod}` },
    devDependencies: {
      'virtiofs-kit': `^${versions.kit}`,
      ...(isTypeScript ? { '@types/node': '>=20', typescript: '>=5.8' } : {}),
    },
  };
  return `${JSON.stringify(content, undefined, 2)}\n`;
}

const TSCONFIG = `${JSON.stringify(
  {
    compilerOptions: {
      target: 'es2022',
      lib: ['es2023', 'esnext.disposable'],
      types: ['node'],
      module: 'nodenext',
      rootDir: '.',
      outDir: 'dist',
      declaration: true,
      strict: true,
      noUncheckedIndexedAccess: true,
      exactOptionalPropertyTypes: true,
    },
    include: ['index.ts', 'test'],
  },
  undefined,
  2,
)}\n`;

function readme(name: string): string {
  return `# ${name}

A backend for [virtiofs-kit](https://www.npmjs.com/package/virtiofs-kit): a file system for guests.

\`\`\`sh
npm test                            # each rule of the contract is a test
npm run check                       # the same, with what is skipped and why: npm run check -- --verbose
npm run guest -- -- ls -l /mnt      # in a throw-away guest
npm run mount                       # on this host, at /mnt
\`\`\`

Whoever has installed the package uses it by its name: \`virtiofs-kit serve --backend ${name} …\`.
`;
}
