import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'node:test';
import * as abi from '../../../../core/fuse/wire/abi.js';
import * as structures from '../../../../core/fuse/wire/structures.js';

const HEADER = '/usr/include/linux/fuse.h';
const header = readFileSync(HEADER, 'utf8');

/** Constants of ours that other headers define, or that say what this program serves. */
const VFS_NAMES = /^(STATX|SEEK|XATTR)_|^(OLDEST_MINOR_VERSION|KERNEL_MINOR_VERSION|OPCODE_END|UNKNOWN_INO)$/;

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

it('structures have the sizes and offsets that the C compiler gives the kernel header', () => {
  const expressions: string[] = [];
  const expected: [string, number][] = [];
  for (const [name, layout] of Object.entries(structures)) {
    if (typeof layout === 'number' || !header.includes(`struct ${name} {`)) continue;
    for (const [field, offset] of Object.entries(layout)) {
      expressions.push(field === 'bytes' ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${field})`);
      expected.push([`${name}.${field}`, offset]);
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
  const kept = expected.map(([name]) => !young.has(name));
  const actual = compileAndRun(expressions.filter((_, i) => kept[i]));
  const named = expected.filter((_, i) => kept[i]);
  assert.ok(named.length > 200, `only ${named.length} fields were compared`);
  assert.deepEqual(
    named.map(([name], i) => [name, actual[i]]),
    named,
  );
});

it('opcodes and flags have the numbers of the kernel header', () => {
  const names: [string, number][] = [];
  for (const [name, value] of Object.entries(abi.Opcode)) names.push([`FUSE_${name}`, value]);
  for (const [name, value] of Object.entries(abi.InitFlag)) names.push([`FUSE_${name}`, value]);
  for (const [name, value] of Object.entries(abi.InitFlag2)) names.push([`(FUSE_${name} >> 32)`, value]);
  for (const [name, value] of Object.entries(abi)) {
    if (typeof value !== 'number' || VFS_NAMES.test(name)) continue;
    names.push([/^(FATTR|FOPEN|CUSE)_/.test(name) ? name : `FUSE_${name}`, value]);
  }
  const known = names.filter(([name]) => header.includes(name.replaceAll(/^\(| >> 32\)$/g, '')));
  assert.ok(known.length > 100, `only ${known.length} numbers were compared`);
  const actual = compileAndRun(known.map(([name]) => name));
  assert.deepEqual(
    known.map(([name], i) => [name, actual[i]]),
    known,
  );
});
