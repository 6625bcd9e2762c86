import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { z } from 'zod';
import { UsageError } from '../../../../core/backend/index.js';
import { check, describeOptions, parseOption } from '../../../../core/plugins/index.js';

const schema = z.strictObject({
  sharedDir: z.string().describe('directory to share').meta({ placeholder: 'DIR' }),
  count: z.number().int().min(1).max(9).default(3).describe('how many'),
  mode: z.enum(['fast', 'safe']).optional().describe('way to go'),
  size: z.union([z.string(), z.number()]).default('1g').describe('bytes'),
  quiet: z.boolean().default(false).describe('say nothing'),
  layers: z
    .array(z.union([z.string(), z.looseObject({ type: z.string() })]))
    .default([])
    .describe('from the top'),
  nested: z.strictObject({ innerMost: z.number().optional() }).optional().describe('more'),
});

test('a schema describes its options for help and flags', () => {
  const rows = describeOptions(schema).map((option) => [
    option.flag,
    option.placeholder,
    option.initial,
    option.required,
    option.repeatable,
  ]);
  assert.deepEqual(rows, [
    ['shared-dir', 'DIR', undefined, true, false],
    ['count', 'N', '3', false, false],
    ['mode', 'fast|safe', undefined, false, false],
    ['size', 'SIZE', '1g', false, false],
    ['quiet', undefined, undefined, false, false],
    ['layers', 'YAML', undefined, false, true],
    ['nested', 'YAML', undefined, false, false],
  ]);
});

test('text from a command line becomes what the schema takes', () => {
  const options = new Map(describeOptions(schema).map((option) => [option.name, option]));
  const parse = (name: string, text: string): unknown => parseOption(options.get(name)!, text);
  assert.equal(parse('sharedDir', '7'), '7');
  assert.equal(parse('count', '7'), 7);
  assert.equal(parse('count', 'seven'), 'seven');
  assert.equal(parse('size', '7'), '7');
  assert.equal(parse('quiet', 'true'), true);
  assert.equal(parse('layers', '/srv/a'), '/srv/a');
  assert.deepEqual(parse('layers', '{ type: memfs, size: 1g }'), { type: 'memfs', size: '1g' });
  assert.throws(() => parse('nested', '{ a: [1'), UsageError);
});

test('every mistake is named with the option, the value and what would be right', () => {
  const mistakes = (value: unknown): string => {
    try {
      check(schema, value, '');
      return 'none';
    } catch (error) {
      assert.ok(error instanceof UsageError);
      return error.message;
    }
  };
  assert.equal(mistakes({}), 'sharedDir is required');
  assert.equal(mistakes({ sharedDir: '/', count: 10 }), 'count 10: must be at most 9');
  assert.equal(mistakes({ sharedDir: '/', count: 0 }), 'count 0: must be at least 1');
  assert.equal(mistakes({ sharedDir: '/', count: 'x' }), 'count x: must be a number');
  assert.equal(
    mistakes({ sharedDir: '/', mode: 'save' }),
    'mode save: must be fast, safe; did you mean safe?',
  );
  assert.equal(mistakes({ sharedDir: '/', modes: 'x' }), 'modes: no such option; did you mean mode?');
  assert.equal(
    mistakes({ sharedDir: '/', nested: { inermost: 1, innerMost: 'x' } }),
    'nested.innerMost x: must be a number; nested.inermost: no such option; did you mean innerMost?',
  );
});
