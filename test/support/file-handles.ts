import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { type MountedExport, shell } from './host-mount.js';

/**
 * File handles from a shell, by perl: `file-handle save PATH` prints one (name_to_handle_at(2)),
 * `file-handle open MOUNT HANDLE` opens one and prints the content, or the names of a directory
 * (open_by_handle_at(2)). Numbers of system calls are those of x86-64.
 */
export const FILE_HANDLE = String.raw`
file_handle() { perl -e '
my ($what, $path, $hex) = @ARGV;
if ($what eq "save") {
  my $handle = pack("Ii", 128, 0) . "\0" x 128;
  my $mount = pack("i", 0);
  syscall(303, -100, $path, $handle, $mount, 0) == 0 or die "name_to_handle_at: $!\n";
  print unpack("H*", substr($handle, 0, 8 + unpack("I", $handle))), "\n";
} else {
  sysopen(my $mount, $path, 0) or die "open: $!\n";
  my $handle = pack("H*", $hex);
  my $fd = syscall(304, fileno($mount), $handle, 0);
  if ($fd < 0) { print "$!\n"; exit }
  if (-d "/proc/self/fd/$fd") { opendir(my $d, "/proc/self/fd/$fd"); print join(" ", sort readdir($d)), "\n" }
  else { open(my $f, "<&=", $fd); print <$f> }
}' "$@"; }
`;

const STALE = 'Stale file handle';

/** Runs a script that may use {@link FILE_HANDLE}. @returns its lines. */
export async function withHandles(script: string, { directory }: MountedExport): Promise<string[]> {
  const { code, output } = await shell(`${FILE_HANDLE}${script}`, directory);
  assert.equal(code, 0, output);
  return output.trim().split('\n');
}

/** Has the kernel forget what it can, and waits until the export knows the root alone. */
async function forgetAll(mounted: MountedExport): Promise<void> {
  while (mounted.export.nodes.size > 1) {
    await withHandles('sync; echo 2 > /proc/sys/vm/drop_caches', mounted);
    await sleep(20);
  }
}

/**
 * Checks that files and directories of a mount are opened by their handles after the kernel and the
 * export have forgotten them, and that those of removed files give ESTALE.
 * @param renamed whether a file that was renamed is opened, too.
 */
export async function reopenByHandle(mounted: MountedExport, renamed = true): Promise<void> {
  const names = ['a', 'sub/b', 'sub/deep/c', 'sub', 'sub/deep', 'gone', ...(renamed ? ['moved'] : [])];
  const handles = await withHandles(
    `mkdir -p sub/deep; for f in a sub/b sub/deep/c moved gone; do echo "in $f" > $f; done; sync
    for f in ${names.join(' ')}; do file_handle save $f; done; mv moved sub/there; rm gone`,
    mounted,
  );
  const open = (): Promise<string[]> =>
    withHandles(handles.map((handle) => `file_handle open . ${handle}`).join('\n'), mounted);
  const expected = [
    'in a',
    'in sub/b',
    'in sub/deep/c',
    '. .. b deep there',
    '. .. c',
    STALE,
    ...(renamed ? ['in moved'] : []),
  ];
  for (let round = 0; round < 2; round++) {
    await forgetAll(mounted);
    assert.deepEqual(await open(), expected);
  }
}
