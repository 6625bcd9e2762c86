import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { before, it } from 'node:test';
import * as abi from '../../../../core/fuse/wire/abi.js';
import * as structures from '../../../../core/fuse/wire/structures.js';

const HEADER = '/usr/include/linux/fuse.h';
const header = readFileSync(HEADER, 'utf8');

/** Constants of ours that other headers define, or that say what this program serves. */
const VFS_NAMES = /^(STATX|SEEK|XATTR)_|^(OLDEST_MINOR_VERSION|KERNEL_MINOR_VERSION|OPCODE_END|UNKNOWN_INO)$/;

/** A number of ours, and the expression of C that must have the same value. */
interface Expected {
  readonly name: string;
  readonly expression: string;
  readonly number: number;
}

/** Compiles C that prints numbers, one a line. */
function compileAndRun(expressions: readonly string[]): number[] {
  const folder = mkdtempSync(join(tmpdir(), 'fuse-abi-'));
  try {
    const source = join(folder, 'abi.c');
    const program = join(folder, 'abi');
    const prints = expressions
      .map((expression) => `printf("%lld\\n", (long long)(${expression}));`)
      .join('\n');
    writeFileSync(
      source,
      `#include <stdio.h>\n#include <stddef.h>\n#include <linux/fuse.h>\nint main(void) {\n${prints}\nreturn 0; }\n`,
    );
    execFileSync('cc', ['-w', '-o', program, source]);
    return execFileSync(program, { encoding: 'utf8' }).trim().split('\n').map(Number);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** RequestBytes of structures and their offsets, and structures and their sizes. */
function structureNumbers(): Expected[] {
  const expected: Expected[] = [];
  for (const [name, layout] of Object.entries(structures)) {
    if (typeof layout === 'number' || !header.includes(`struct ${name} {`)) continue;
    for (const [field, number] of Object.entries(layout)) {
      const expression = field === 'bytes' ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${field})`;
      expected.push({ name: `${name}.${field}`, expression, number });
    }
  }
  // The installed header may be older than 7.45. These fields were reserved then, and these are
  // what is left of the reserve.
  const young = new Set<string>();
  for (const [structure, field] of [
    ['fuse_init_out', 'max_stack_depth'],
    ['fuse_init_out', 'request_timeout'],
    ['fuse_open_out', 'backing_id'],
  ] as const) {
    if (header.includes(field)) continue;
    young.add(`${structure}.${field}`);
    young.add(`${structure}.unused`);
  }
  return expected.filter(({ name }) => !young.has(name));
}

/** Opcodes and flags. */
function constantNumbers(): Expected[] {
  const expressions: [string, number][] = [];
  for (const [name, value] of Object.entries(abi.Opcode)) expressions.push([`FUSE_${name}`, value]);
  for (const [name, value] of Object.entries(abi.NotifyCode))
    expressions.push([`FUSE_NOTIFY_${name}`, value]);
  for (const [name, value] of Object.entries(abi.InitFlag)) expressions.push([`FUSE_${name}`, value]);
  for (const [name, value] of Object.entries(abi.InitFlag2))
    expressions.push([`(FUSE_${name} >> 32)`, value]);
  for (const [name, value] of Object.entries(abi)) {
    if (typeof value !== 'number' || VFS_NAMES.test(name)) continue;
    expressions.push([/^(FATTR|FOPEN|CUSE)_/.test(name) ? name : `FUSE_${name}`, value]);
  }
  return expressions
    .filter(([expression]) => header.includes(expression.replaceAll(/^\(| >> 32\)$/g, '')))
    .map(([expression, number]) => ({ name: expression, expression, number }));
}

const ofStructures = structureNumbers();
const ofConstants = constantNumbers();
/** What the compiler says, in the order of both lists. One compilation serves both tests. */
let compiled: number[] = [];

before(() => {
  compiled = compileAndRun([...ofStructures, ...ofConstants].map(({ expression }) => expression));
});

function assertNumbers(expected: readonly Expected[], actual: readonly number[], atLeast: number): void {
  assert.ok(expected.length > atLeast, `only ${expected.length} numbers were compared`);
  assert.deepEqual(
    expected.map(({ name }, i) => [name, actual[i]]),
    expected.map(({ name, number }) => [name, number]),
  );
}

it('structures have the sizes and offsets that the C compiler gives the kernel header', () => {
  assertNumbers(ofStructures, compiled.slice(0, ofStructures.length), 200);
});

it('opcodes and flags have the numbers of the kernel header', () => {
  assertNumbers(ofConstants, compiled.slice(ofStructures.length), 100);
});
