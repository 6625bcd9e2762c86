import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Errno } from '../../../../core/backend/index.js';
import { Faults } from '../../../../core/fuse/session/faults.js';
import type { Request } from '../../../../core/fuse/session/request.js';

const request = { context: { aborted: false }, operation: { name: 'WRITE' } } as unknown as Request;

function systemError(code: keyof typeof Errno): Error {
  return Object.assign(new Error(`${code}: write`), { code, errno: -Errno[code], syscall: 'write' });
}

test('what the own files of a backend lack is told to guests as it is, and logged', () => {
  const lines: string[] = [];
  const drop = (): void => undefined;
  const log = {
    debug: drop,
    info: drop,
    warn: drop,
    error: (_: object, line: string) => void lines.push(line),
  };
  const faults = new Faults(log);
  for (const code of ['ENOSPC', 'EDQUOT', 'EROFS', 'EFBIG', 'ENOMEM', 'EMFILE', 'ENFILE'] as const) {
    assert.equal(faults.errnoOf(systemError(code), request), Errno[code], code);
  }
  assert.deepEqual(new Set(lines), new Set(['WRITE failed']));
  assert.equal(lines.length, 7);
  // An errno that is no shortage is a mistake of the backend, as any other exception.
  assert.equal(faults.errnoOf(systemError('ENOENT'), request), Errno.EIO);
  assert.equal(faults.errnoOf(systemError('EACCES'), request), Errno.EIO);
  assert.equal(faults.errnoOf(new Error('a mistake'), request), Errno.EIO);
});
