import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import memfs from '../../backends/memfs/index.js';
import { type Backend, type Overrides, wrap } from '../../core/backend/index.js';
import { cases, checkBackend, testContract } from '../../core/contract/index.js';
import { keepingLog, pluginEnvironment } from '../support/host-mount.js';

const RULE = 'random sequences of operations do what they do in a model of a file system';

type Inner = Backend<object, unknown>;

async function wrong(overrides: (inner: Inner) => Overrides<object, unknown>): Promise<Backend> {
  const inner = (await memfs.create(memfs.options.parse({}), pluginEnvironment())) as Inner;
  return wrap<object, unknown>(inner, overrides(inner)) as Backend;
}

const mistakes: readonly [
  mistake: string,
  script: RegExp,
  overrides: (inner: Inner) => Overrides<object, unknown>,
][] = [
  [
    'loses the second page of what is renamed',
    /^(mkdir \w\n)?: > \S+\n.*dd .* of=\S+\nmv -T \S+ \S+(\n.*)?$/,
    (inner) => ({
      rename: async (next, parent, name, newParent, newName, flags, context) => {
        const { node, attributes } = (await inner.lookup(parent, name, context))!;
        if ((attributes.size ?? 0) > 4096 && (attributes.mode & 0o170000) === 0o100000)
          await inner.setattr!(node, { size: 4096 }, undefined, context);
        await next(parent, name, newParent, newName, flags, context);
      },
    }),
  ],
  [
    'leaves the name that a directory had',
    /^mkdir \S+\nmv -T \S+ \S+(\n.*)?$/,
    (inner) => ({
      rename: async (next, parent, name, newParent, newName, flags, context) => {
        const { attributes } = (await inner.lookup(parent, name, context))!;
        await next(parent, name, newParent, newName, flags, context);
        if ((attributes.mode & 0o170000) === 0o040000) await inner.mkdir!(parent, name, 0o755, context);
      },
    }),
  ],
  ['removes no directory', /^mkdir (\S+)\nrmdir \1$/, () => ({ rmdir: () => undefined })],
];

describe('a random sequence that goes wrong is told as the shortest script, of a backend that', () => {
  for (const [mistake, script, overrides] of mistakes) {
    it(mistake, async () => {
      const options = {
        create: () => wrong(overrides),
        log: keepingLog(),
        only: (name: string) => name === RULE,
      };
      const { results } = await checkBackend(options);
      const { outcome, reason } = results[0]!;
      assert.equal(outcome, 'failed');
      const [told, ...lines] = reason!.split('\n');
      assert.match(
        told!,
        /^a random sequence: expected what the model does, got .*, by this in an empty directory/,
      );
      assert.match(lines.join('\n'), script);
      assert.deepEqual((await checkBackend(options)).results, results, 'the same again');
    });
  }
});

describe('each rule is a test of its own for any test runner', () => {
  const made = async (
    create: () => Backend | Promise<Backend>,
  ): Promise<Map<string, () => Promise<unknown>>> => {
    const tests = new Map<string, () => Promise<unknown>>();
    testContract(
      (name, run) => {
        assert.equal(run.length, 0, 'no runner takes a parameter for a callback');
        tests.set(name, async () => {
          let skipped: unknown = 'passed';
          await run({ skip: (reason: unknown) => (skipped = reason) });
          return skipped;
        });
      },
      { create },
    );
    assert.deepEqual(
      [...tests.keys()],
      cases.map(({ name }) => name),
    );
    return tests;
  };

  it('passes, fails with the reason and the exception, or is skipped', async () => {
    const tests = await made(() =>
      wrong(() => ({
        symlink: () => {
          throw new Error('no links today');
        },
      })),
    );
    assert.equal(await tests.get('the root is a directory')!(), 'passed');
    const rule = 'a symbolic link keeps its target, whatever that is';
    await assert.rejects(tests.get(rule)!(), (error: Error) => {
      assert.equal(error.message, 'SYMLINK "a" to "somewhere": EIO');
      assert.equal((error.cause as Error).message, 'no links today');
      return true;
    });
    const small = await made(() => ({
      mount: () => ({}),
      lookup: () => undefined,
      getattr: () => ({ mode: 0o40755 }),
    }));
    assert.match(String(await small.get(rule)!()), /^the backend has no symlink/);
  });
});
