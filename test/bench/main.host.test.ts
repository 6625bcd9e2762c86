import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('./main.js', import.meta.url));

function bench(...words: string[]): { code: number | null; out: string; errors: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...words], { encoding: 'utf8' });
  return { code: status, out: stdout, errors: stderr };
}

describe('the comparison of daemons', () => {
  it('says what it takes', () => {
    const { code, out, errors } = bench('--help');
    assert.equal(code, 0);
    assert.equal(errors, '');
    for (const flag of [
      'backend',
      'virtiofsd',
      'directory',
      'rounds',
      'seconds',
      'only',
      'think',
      'think-by',
      'peer',
      'guests',
      'amount',
      'warm-up',
      'json',
      'plot',
    ])
      assert.match(out, new RegExp(`^ +--${flag} <`, 'm'));
  });

  it('refuses what it does not take, in one line and before it starts a daemon', () => {
    const mistakes = [
      ['--nope'],
      ['word'],
      ['--rounds', '0'],
      ['--rounds', '1.5'],
      ['--seconds', 'x'],
      ['--only', 'read-seq-1m,nope'],
      ['--backend', 's3'],
      ['--think-by', 'magic'],
      ['--virtiofsd', '/nowhere'],
      ['--peer', 'daemon --listen'],
      ['--peer', 'name=daemon --listen'],
      ['--guest', '--only', 'read-seq-1m'],
      ['--guest', '--amount', '0'],
      ['--guest', '--guests', '2', '--only', 'fio'],
      ['--directory', '/nowhere'],
    ];
    for (const words of mistakes) {
      const { code, out, errors } = bench(...words);
      assert.equal(code, 1, words.join(' '));
      assert.equal(out, '');
      assert.match(errors, /^error: [^\n]+\n$/);
    }
  });
});
