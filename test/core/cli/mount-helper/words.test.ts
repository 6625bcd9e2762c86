import assert from 'node:assert/strict';
import { test } from 'node:test';
import { mountWords } from '../../../../core/cli/mount-helper/words.js';

test('what mount(8) says becomes the words of the mount command', () => {
  const start = ['mount', '/mnt', '--backend', 's3', '--daemon'];
  const said = (options: string): readonly string[] =>
    mountWords(['virtiofs-kit:s3', '/mnt', '-o', options]).slice(start.length);
  assert.deepEqual(mountWords(['s3', '/mnt']), start);
  assert.deepEqual(
    mountWords(['virtiofs-kit:s3', '/mnt', '-sn', '-v', '-t', 'virtiofs-kit', '-o', 'rw']),
    start,
  );
  assert.deepEqual(said('rw,noauto,_netdev,nofail,x-systemd.automount,comment=ours,relatime,nosuid'), []);
  assert.deepEqual(said('ro,bucket=data,cache_dir=/var/a b,allow-other,metadata-ttl=0'), [
    '--read-only',
    '--bucket=data',
    '--cache-dir=/var/a b',
    '--allow-other',
    '--metadata-ttl=0',
  ]);
  assert.deepEqual(said('prefix="a,b",region=x=y'), ['--prefix=a,b', '--region=x=y']);
  // What cannot be kept is refused by the command, which knows no such flag.
  assert.deepEqual(said('noexec,remount'), ['--noexec', '--remount']);
});
