/**
 * A program for perl(1) that tries, as root, who keeps which set-id bits through what in its first
 * argument's directory; with a second argument, creations alone. It writes a line for each:
 * operation, who, mode before, mode after. Run on ext4 it gives what Linux does.
 */
export const setIdProgram = `
use strict; use warnings; use Fcntl; use POSIX ();
my ($top, $part) = @ARGV; chdir $top or die "$top: $!"; umask 0;
# FALLOC_FL_KEEP_SIZE 1, PUNCH_HOLE 2, ZERO_RANGE 16; x86-64 numbers of the calls.
my ($FALLOCATE, $COPY, $STATX) = (285, 326, 332); my $TMPFILE = 020200000;
# The mode alone, which Linux may have kept where it asks for sizes and times.
sub mode_of { my $stat = "\\0" x 256; my $name = $_[0];
  syscall($STATX, -100, $name, 0, 2, $stat) == 0 or die $!; unpack('S', substr $stat, 28, 2) & 07777 }
my @who = (['root', 0, 0], ['owner', 1000, 1000], ['owner in the group', 1000, 1000, 7777],
  ['stranger', 2000, 2000], ['stranger in the group', 2000, 2000, 7777]);
sub opened { my ($flags) = @_; sysopen my $f, 'file', $flags or die "open: $!"; $f }
my %on_file = (
  'write' => sub { my $f = opened(O_WRONLY); syswrite $f, 'x' or die $! },
  'write with O_APPEND' => sub { my $f = opened(O_WRONLY | O_APPEND); syswrite $f, 'x' or die $! },
  'write with O_SYNC' => sub { my $f = opened(O_WRONLY | O_SYNC); syswrite $f, 'x' or die $! },
  'read' => sub { my $f = opened(O_RDONLY); sysread $f, my $x, 9; },
  'ftruncate' => sub { my $f = opened(O_WRONLY); truncate $f, 3 or die $! },
  'truncate' => sub { truncate 'file', 3 or die $! },
  'truncate to the same size' => sub { truncate 'file', 8192 or die $! },
  'open with O_TRUNC' => sub { opened(O_WRONLY | O_TRUNC) },
  'fallocate' => sub { my $f = opened(O_WRONLY); syscall($FALLOCATE, fileno $f, 0, 0, 9000) == 0 or die $! },
  'fallocate, size kept' => sub { my $f = opened(O_WRONLY); syscall($FALLOCATE, fileno $f, 1, 0, 9000) == 0 or die $! },
  'punch a hole' => sub { my $f = opened(O_WRONLY); syscall($FALLOCATE, fileno $f, 3, 0, 4096) == 0 or die $! },
  'zero a range' => sub { my $f = opened(O_WRONLY); syscall($FALLOCATE, fileno $f, 16, 0, 4096) == 0 or die $! },
  'copy_file_range' => sub { my $f = opened(O_RDWR); sysopen my $s, 'source', O_RDONLY or die $!;
    syscall($COPY, fileno $s, 0, fileno $f, 0, 100, 0) == 100 or die $! },
  'utimes' => sub { utime undef, undef, 'file' or die $! },
  'chown to the same owner' => sub { chown 1000, -1, 'file' or die $! },
  'chgrp to the same group' => sub { chown -1, 7777, 'file' or die $! },
  'chgrp to another group' => sub { chown -1, 1000, 'file' or die $! },
  'chmod' => sub { chmod 06771, 'file' or die $! },
  'chmod without group-execute' => sub { chmod 06761, 'file' or die $! },
);
my %making = (
  'open with O_CREAT' => sub { sysopen my $f, 'new', O_CREAT | O_EXCL | O_WRONLY, $_[0] or die $! },
  'mkdir' => sub { mkdir 'new', $_[0] or die $! },
  'mkfifo' => sub { POSIX::mkfifo('new', $_[0]) or die $! },
  'O_TMPFILE' => sub { sysopen my $f, '.', $TMPFILE | O_WRONLY, $_[0] or die $!;
    sprintf '%o', (stat $f)[2] & 07777 },
);
sub try { my ($what, $before, $act) = @_;
  for my $who (@who) {
    my ($name, $uid, $gid, @groups) = @$who;
    my $after = $before->();
    $) = join ' ', $gid, @groups ? @groups : $gid; $> = $uid; $> == $uid or die 'not that user';
    my $said = eval { $act->() }; my $failed = $@ && 0 + $!; $> = 0; $) = '0 0';
    die $@ if $@ && !$failed; $said = $failed if $failed;
    printf "%s, by %s, of %o: %s\\n", $what, $name, $after->[0], defined $said && $said =~ /^[0-7]+$/ && ($failed || $what eq 'O_TMPFILE') ? $said : $after->[1]->();
  }
}
for my $what ($part ? () : sort keys %on_file) {
  for my $mode (06777, 04777, 02777, 06767, 02767) {
    try $what, sub {
      for my $name ('file', 'source') { open my $f, '>', $name or die "$name: $!"; print $f 'y' x 8192; close $f }
      chown 1000, 7777, 'file' or die $!; chmod $mode, 'file' or die $!; chmod 0666, 'source';
      [$mode, sub { sprintf '%o', mode_of('file') }] }, $on_file{$what};
  }
}
unlink 'file', 'source';
mkdir 'shared' or die $!; chown 0, 7777, 'shared' or die $!; chmod 02777, 'shared' or die $!; chdir 'shared' or die $!;
for my $what (sort keys %making) {
  for my $mode (02771, 02761, 06777, 0777) {
    try $what, sub { unlink 'new'; rmdir 'new'; [$mode, sub { sprintf '%o', (stat 'new')[2] & 07777 }] },
      sub { $making{$what}->($mode) };
  }
}
`;

/** Of what needs no privilege, what makes Linux clear set-id bits by a flag to the server. */
const CLEARING =
  /^(?:write|ftruncate|truncate|open with O_TRUNC|fallocate|punch|zero|copy|chown|chgrp)[^:]*, by (?:owner|stranger), /;

/**
 * What a line of ext4's is over FUSE. Since Linux 6.2 set-group-id of a file that its group may not
 * execute goes with a change by somebody outside the group. FUSE's flags mean the older rule, where
 * it stays (include/uapi/linux/fuse.h, FUSE_HANDLE_KILLPRIV_V2), and a write does not tell the
 * caller's groups, by which a server could tell.
 */
export function overFuse(line: string): string {
  return CLEARING.test(line) ? line.replace(/(?<=of [26]767: )767$/, '2767') : line;
}

/**
 * The same over passthrough, where the host's kernel clears the bits with a write, and takes the
 * daemon for one outside the group. To ask for the mode before each write would cost more than this
 * is worth.
 */
export function overPassthrough(line: string): string {
  if (!/^write(?: with O_APPEND)?, by (?!root)/.test(line)) return overFuse(line);
  return line.replace(/(?<=of [26]767: )2767$/, '767');
}
