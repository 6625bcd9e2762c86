/**
 * What people do with a file system, as shell scripts that check themselves. The same list runs
 * over the host mount and inside guests. Each script runs under `sh -eu` in an empty directory of
 * the file system under test, needs nothing from outside but the programs it names, and ends with
 * the line `ok`.
 */
export interface Workload {
  /** What must hold, as a sentence about the file system. */
  readonly name: string;
  /** Programs that the script needs beyond coreutils and findutils. */
  readonly needs: readonly string[];
  /**
   * Whether it needs FUSE_INTERRUPT, which Linux sends over /dev/fuse but not over virtio-fs
   * (fs/fuse/virtio_fs.c).
   */
  readonly interrupts?: boolean;
  readonly script: string;
}

/** Put before a script for a backend without hard links. It makes copies instead. */
export const WITHOUT_HARD_LINKS = "LINK='cp -p'\n";

/** Waits for a file that another process makes; fails after 30 seconds. */
const AWAIT = `
await() {
  tries=0
  until [ -e "$1" ]; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { echo "no $1 after 30 s"; exit 1; }
    sleep 0.1
  done
}
fail() { echo "FAILED: $*"; exit 1; }
`;

/**
 * Record locks from a shell, by perl (which every Debian has): \`posix-lock FILE SETLK|SETLKW|GETLK
 * r|w|u START LENGTH\`. The struct is LP64's: type, whence, start, length, pid.
 */
const PERL_LOCK = String.raw`
use strict; use Fcntl; use Errno qw(EAGAIN EACCES EINTR);
sub lock { my ($file, $command, $type, $start, $length) = @_;
  my $flock = pack('s s x4 q q l x4', { r => F_RDLCK, w => F_WRLCK, u => F_UNLCK }->{$type}, 0, $start, $length, 0);
  return fcntl($file, $command, $flock) ? $flock : undef; }
sub conflict { my $flock = lock($_[0], F_GETLK, @_[1..3]); my ($type, $whence, $start, $length, $pid) = unpack('s s x4 q q l', $flock);
  return $type == F_UNLCK ? 'none' : ($type == F_RDLCK ? 'r' : 'w') . " $start+$length $pid"; }
sub opened { open(my $file, '+<', $_[0]) or die "open $_[0]: $!"; return $file; }
`;

function perl(body: string): string {
  return `perl - <<'PERL'
${PERL_LOCK}${body}
PERL
`;
}

const list: readonly Workload[] = [
  {
    name: 'files are created, written, read, appended to, truncated and removed',
    needs: [],
    script: `
      printf 'one\\n' > file; printf 'two\\n' >> file
      [ "$(cat file)" = "one
two" ]
      [ "$(stat -c %s file)" = 8 ]
      { head -c 1234567 /dev/urandom; printf Y; head -c 1765432 /dev/urandom; } > big; cp big copy; cmp big copy
      printf X | dd of=copy bs=1 seek=1234567 conv=notrunc status=none
      cmp big copy > difference || true; grep -q ' 1234568,' difference
      truncate -s 1000001 big; [ "$(stat -c %s big)" = 1000001 ]; cmp -n 1000001 big copy
      truncate -s 5000000 big; [ "$(tail -c 3999999 big | tr -d '\\000' | wc -c)" = 0 ]
      touch -d '2001-02-03 04:05:06.789 UTC' file; [ "$(stat -c %Y file)" = 981173106 ]
      chmod 640 file; [ "$(stat -c %a file)" = 640 ]
      mkdir -p a/b/c; rmdir a/b/c a/b a; rm big copy difference file
      [ -z "$(ls -A)" ]`,
  },
  {
    name: 'names are moved and exchanged over others, and a directory with everything in it',
    needs: ['perl'],
    script: `
      echo a > a; echo b > b; mv a b; [ "$(cat b)" = a ]; [ ! -e a ]
      mkdir -p from/deep; echo x > from/deep/x; mkdir to; mv from to/; [ "$(cat to/from/deep/x)" = x ]
      mkdir empty; mv -T to/from empty; [ "$(cat empty/deep/x)" = x ]
      perl -e 'exit(rename("empty", "empty/deep/inside") ? 1 : $!{EINVAL} ? 0 : 2)'
      perl -e 'exit(rename("b", "empty") ? 1 : $!{EISDIR} ? 0 : 2)'
      mkdir full; touch full/f; perl -e 'exit(rename("empty", "full") ? 1 : ($!{ENOTEMPTY} || $!{EEXIST}) ? 0 : 2)'`,
  },
  {
    name: 'a file that was removed while open can be read, written and truncated until it is closed',
    needs: ['perl'],
    script: `
      echo first > gone
      perl -e 'open(F, "+<", "gone") or die; unlink("gone") or die; -e "gone" and die "still there";
        open(G, ">", "gone") or die; print G "second\\n"; close G;
        (<F> eq "first\\n") or die "lost"; seek(F, 0, 2); syswrite(F, "x" x 100000) == 100000 or die;
        (stat F)[7] == 100006 or die "size"; (stat F)[3] == 0 or die "links"; truncate(F, 3) or die; (stat F)[7] == 3 or die;
        seek(F, 0, 0); read(F, my $b, 10) == 3 or die; $b eq "fir" or die'
      [ "$(cat gone)" = second ]
      mkdir d; cd d; rmdir ../d; ls -A . || true; cd ..; [ ! -e d ]`,
  },
  {
    name: 'hard links share one file, and symbolic links lead where they point',
    needs: ['perl'],
    script: `
      echo data > a; ln a b; mkdir d; ln b d/c
      [ "$(stat -c %h a)" = 3 ]; [ "$(stat -c %i a)" = "$(stat -c %i d/c)" ]
      echo more >> b; [ "$(cat d/c)" = "data
more" ]
      rm a; [ "$(stat -c %h b)" = 2 ]; perl -e 'rename("d/c", "b") or die'; [ -e d/c ]
      ln -s d/c link; [ "$(readlink link)" = d/c ]; [ "$(wc -l < link)" = 2 ]
      ln -s loop loop; ! cat loop 2>/dev/null; ln -s nowhere dangling; [ ! -e dangling ]; [ -L dangling ]
      long=$(printf 'x%.0s' $(seq 1 1000)); ln -s "$long" long; [ "$(readlink long)" = "$long" ]`,
  },
  {
    name: 'a directory of 4,000 files is listed whole, and emptied',
    needs: [],
    script: `
      mkdir many; cd many
      seq 1 4000 | xargs touch
      [ "$(ls -U | wc -l)" = 4000 ]; [ "$(ls -U | sort -u | wc -l)" = 4000 ]
      [ "$(find . -type f | wc -l)" = 4000 ]
      ls | head -2000 | xargs rm; [ "$(ls -U | wc -l)" = 2000 ]
      cd ..; rm -r many; [ ! -e many ]`,
  },
  {
    name: 'a listing goes on, and rewinds, while names are removed and added',
    needs: ['perl'],
    script: `
      mkdir d; cd d; seq 1 3000 | xargs touch; cd ..
      perl -e 'opendir(D, "d") or die; my %seen; my $at;
        for (1..500) { $seen{readdir D}++ }
        $at = telldir D; my $next = readdir D; $seen{$next}++;
        for (2001..3000) { next if $seen{$_}; unlink "d/$_" or die }
        for (1..200) { open(F, ">", "d/new$_") or die }
        while (defined(my $name = readdir D)) { $seen{$name}++ }
        for (1..2000) { $seen{$_} == 1 or die "$_ seen " . ($seen{$_} // 0) }
        for (keys %seen) { $seen{$_} == 1 or die "$_ seen $seen{$_}" }
        seekdir(D, $at); my $again = readdir D; $again eq $next or die "$again is not $next";
        rewinddir D; my %now; while (defined(my $name = readdir D)) { $now{$name}++ }
        for (1..200) { $now{"new$_"} == 1 or die "new$_ not listed" }
        for (1..2000) { $now{$_} == 1 or die "$_ not listed after rewind" }'`,
  },
  {
    name: 'a listing shows the inode numbers that stat shows, those of dot and dot-dot too',
    needs: ['perl'],
    script: `
mkdir -p d/e; echo > d/f
perl - <<'PERL'
use strict;
my $getdents64 = 217;
for my $path ('.', 'd', 'd/e') {
  open(my $directory, '<', $path) or die "open $path: $!";
  my %found;
  while (1) {
    my $buffer = chr(0) x 32768;
    my $size = syscall($getdents64, fileno($directory), $buffer, length $buffer);
    die "getdents64: $!" if $size < 0;
    last if $size == 0;
    for (my $at = 0; $at < $size;) {
      my ($ino, $off, $length, $type, $name) = unpack('Q q S C Z*', substr($buffer, $at, $size - $at));
      $found{$name} = $ino;
      $at += $length;
    }
  }
  die "no dots in $path" unless exists $found{'.'} && exists $found{'..'};
  for my $name (sort keys %found) {
    my $wanted = (lstat "$path/$name")[1];
    die "d_ino of $path/$name is $found{$name}, st_ino $wanted" unless $found{$name} == $wanted;
  }
}
PERL
`,
  },
  {
    name: 'flock keeps processes out that want the same file, and lets them in one after another',
    needs: ['flock'],
    script: `
      : > lock; echo 0 > counter
      for worker in 1 2 3 4; do
        (for i in $(seq 1 10); do flock lock sh -c 'n=$(cat counter); echo $((n + 1)) > counter'; done) &
      done
      wait; [ "$(cat counter)" = 40 ]
      flock -s lock sh -c 'flock -n -s lock true && ! flock -n -x lock true'
      flock -x lock sh -c '! flock -n -s lock true'
      flock -n -x lock true`,
  },
  {
    name: 'record locks keep processes out of ranges, show their holder, and end with the process',
    needs: ['perl'],
    script: `
      echo data > f
      ${perl(String.raw`
        my $f = opened("f"); pipe(my $r, my $w); pipe(my $r2, my $w2);
        my $child = fork() // die;
        if (!$child) { my $g = opened("f"); lock($g, F_SETLK, "w", 10, 10) or die "child: $!"; syswrite($w, "x"); sysread($r2, my $b, 1); exit 0 }
        sysread($r, my $b, 1);
        conflict($f, "r", 0, 0) eq "w 10+10 $child" or die "holder: " . conflict($f, "r", 0, 0);
        conflict($f, "w", 0, 10) eq "none" or die; conflict($f, "w", 20, 0) eq "none" or die;
        defined lock($f, F_SETLK, "r", 15, 1) and die "not excluded"; $!{EAGAIN} or die "errno $!";
        lock($f, F_SETLK, "w", 0, 10) or die; lock($f, F_SETLK, "w", 20, 0) or die;
        syswrite($w2, "x"); lock($f, F_SETLKW, "w", 10, 10) or die "waiting: $!"; waitpid($child, 0);
        my $third = fork() // die;
        if (!$third) { my $g = opened("f"); exit(conflict($g, "r", 15, 1) =~ /^w 0\+0 / ? 0 : 1) }
        waitpid($third, 0); $? == 0 or die "not merged";
        my $other = opened("f"); close($other);
        my $fourth = fork() // die;
        if (!$fourth) { my $g = opened("f"); exit(lock($g, F_SETLK, "w", 0, 0) ? 0 : 1) }
        waitpid($fourth, 0); $? == 0 or die "closing any descriptor ends the locks";
      `)}`,
  },
  {
    name: 'a signal ends the wait for a record lock',
    needs: ['perl'],
    interrupts: true,
    script: `
      echo data > f
      ${perl(String.raw`
        pipe(my $r, my $w); my $child = fork() // die;
        if (!$child) { my $g = opened("f"); lock($g, F_SETLK, "w", 0, 1) or die; syswrite($w, "x"); sleep 60; exit 0 }
        sysread($r, my $b, 1); my $f = opened("f"); my $rang = 0; $SIG{ALRM} = sub { $rang = 1 };
        alarm 1; defined lock($f, F_SETLKW, "w", 0, 1) and die "got it"; $!{EINTR} or die "errno $!"; $rang or die;
        kill "KILL", $child; waitpid($child, 0);
        lock($f, F_SETLKW, "w", 0, 1) or die "after the holder died: $!";
      `)}`,
  },
  {
    name: 'a circle of waits for record locks is refused',
    needs: ['perl'],
    script: `
      echo data > f
      ${perl(String.raw`
        my $f = opened("f"); lock($f, F_SETLKW, "w", 0, 1) or die;
        pipe(my $r2, my $w2); my $second = fork() // die;
        if (!$second) { my $g = opened("f"); lock($g, F_SETLK, "w", 5, 1) or die; syswrite($w2, "x"); exit(lock($g, F_SETLKW, "w", 0, 1) ? 0 : 1) }
        sysread($r2, my $b, 1); select(undef, undef, undef, 0.5);
        defined lock($f, F_SETLKW, "w", 5, 1) and die "no deadlock seen"; $!{EDEADLK} or die "errno $!";
        lock($f, F_SETLK, "u", 0, 0) or die; waitpid($second, 0); $? == 0 or die "second: $?";
      `)}`,
  },
  {
    name: 'git clones a repository, and fsck finds it sound',
    needs: ['git'],
    script: `
      export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
      export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null HOME="$PWD"
      git -c init.defaultBranch=main init -q origin; cd origin; mkdir dir0 dir1 dir2 dir3 dir4 dir5 dir6
      for round in 1 2 3; do
        for i in $(seq 1 60); do echo "$round $i" >> "dir$((i % 7))/file$i"; done
        git add -A; git commit -q -m "round $round"
      done
      git gc -q; cd ..
      git clone -q --no-hardlinks origin clone; git -C clone fsck --full --strict
      git -C clone checkout -q -b other; git -C clone mv dir1 dir9; git -C clone commit -q -m move
      git -C clone push -q origin other; git -C origin fsck --full
      [ -z "$(git -C clone status --porcelain)" ]; [ "$(git -C origin rev-parse other)" = "$(git -C clone rev-parse HEAD)" ]`,
  },
  {
    name: 'a program reads back what it has written, while others open and read the file',
    needs: ['perl'],
    script: perl(String.raw`
      use IO::Handle;
      sysopen(my $f, "f", O_RDWR | O_CREAT) or die "f: $!"; syswrite($f, "\0" x 65536);
      sub reader { alarm 60; for (;;) { my $g = opened("f"); for (1..3) { at($g); sysread($g, my $data, 8192) } stat "f" } }
      sub at { my $offset = 4096 * int(rand 16) + ($_[1] // 0); sysseek($_[0], $offset, 0); return $offset }
      my @readers = map { my $pid = fork // die; $pid or reader(); $pid } 1..3;
      eval { for my $n (1..300) {
        my $text = sprintf("%08d", $n); my $offset = at($f, 100); syswrite($f, $text) == 8 or die "write: $!";
        sysseek($f, $offset, 0); sysread($f, my $back, 8); $back eq $text or die "wrote $text, read $back";
        $f->sync or die "fsync: $!" if $n % 50 == 0;
      } };
      my $error = $@; kill TERM => @readers; waitpid($_, 0) for @readers; die $error if $error;
    `),
  },
  {
    name: 'sqlite keeps its databases whole with several writers, by rollback journal and by write-ahead log',
    needs: ['sqlite3'],
    script: `
      for mode in delete wal; do
        sqlite3 "$mode.db" "PRAGMA journal_mode=$mode; CREATE TABLE t(id INTEGER PRIMARY KEY, worker, data);" > /dev/null
        for worker in 1 2 3; do
          (for i in $(seq 1 6); do
            sqlite3 -cmd '.timeout 30000' "$mode.db" "BEGIN IMMEDIATE; INSERT INTO t(worker, data) VALUES($worker, hex(randomblob(500)));
              UPDATE t SET data = hex(randomblob(400)) WHERE id % 7 = $worker; COMMIT;" || echo failed > failed
          done) &
        done
        wait; [ ! -e failed ]
        [ "$(sqlite3 "$mode.db" 'SELECT count(*) FROM t')" = 18 ]
        [ "$(sqlite3 "$mode.db" 'PRAGMA integrity_check')" = ok ]
      done`,
  },
  {
    name: 'tar packs and unpacks a tree without a change in content, mode, time or links',
    needs: ['tar'],
    script: `
      mkdir -p tree/empty 'tree/with space' tree/d0 tree/d1 tree/d2 tree/d3 tree/d4 tree/d5 tree/d6 tree/d7 tree/d8
      for i in $(seq 1 80); do head -c $((i * 997)) /dev/urandom > "tree/d$((i % 9))/f$i"; done
      printf 'x' > "tree/with space/$(printf '\\303\\244\\377\\n')"
      \${LINK:-ln} tree/d1/f1 tree/hard; ln -s ../d2 tree/d1/soft; chmod 4751 tree/d1/f1; chmod 1777 tree/empty
      touch -d '1999-12-31 23:59:59.123456789' tree/d1/f1
      (cd tree && find . -type f -print0 | sort -z | xargs -0 sha256sum) > digests
      (cd tree && find . ! -path . -printf '%p %y %m %n %l %T@\\n' | sort) > attributes
      tar --format=posix --numeric-owner -cf tree.tar tree; mkdir back; tar --numeric-owner -xpf tree.tar -C back
      (cd back/tree && sha256sum --quiet -c ../../digests)
      (cd back/tree && find . ! -path . -printf '%p %y %m %n %l %T@\\n' | sort) | cmp - attributes`,
  },
  {
    name: 'rsync copies a tree and finds nothing left to copy',
    needs: ['rsync'],
    script: `
      mkdir -p from/a/b; for i in $(seq 1 80); do head -c $((i * 1031)) /dev/urandom > "from/a/f$i"; done
      \${LINK:-ln} from/a/f1 from/a/b/hard; ln -s ../f2 from/a/b/soft; chmod 600 from/a/f3
      rsync -aH from/ to/; [ -z "$(rsync -aHn --checksum --delete --itemize-changes from/ to/)" ]
      printf more >> from/a/f80; rm from/a/f79; rsync -aH --inplace --no-whole-file --delete from/ to/
      [ -z "$(rsync -aHn --checksum --delete --itemize-changes from/ to/)" ]; [ ! -e to/a/f79 ]; [ "$(stat -c %h to/a/f1)" = "$(stat -c %h from/a/f1)" ]`,
  },
  {
    name: 'fio reads back what it wrote, by system calls and by mapped memory',
    needs: ['fio'],
    script: `
      common='--thread --size=4m --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 --group_reporting --output=fio.log'
      fio $common --name=random --ioengine=psync --rw=randwrite --bs=4k --numjobs=2 || { cat fio.log; exit 1; }
      fio $common --name=mixed --ioengine=psync --rw=randrw --bsrange=512-128k --fsync=16 || { cat fio.log; exit 1; }
      fio $common --name=direct --ioengine=psync --direct=1 --rw=write --bs=256k || { cat fio.log; exit 1; }
      fio $common --name=mapped --ioengine=mmap --rw=randwrite --bs=4k || { cat fio.log; exit 1; }`,
  },
  {
    name: 'a C program is compiled, linked and run',
    needs: ['gcc'],
    script: `
      for i in $(seq 1 8); do echo "int f$i(int x) { return x + $i; }" > "f$i.c"; done
      { for i in $(seq 1 8); do echo "int f$i(int);"; done
        echo '#include <stdio.h>'; echo 'int main(void) { int x = 0;'
        for i in $(seq 1 8); do echo "x = f$i(x);"; done; echo 'printf("%d", x); return 0; }'; } > main.c
      for c in *.c; do gcc -O1 -c "$c"; done
      ar rcs libf.a f*.o; gcc -o program main.o libf.a; [ "$(./program)" = 36 ]
      gcc -shared -fPIC -o libshared.so f1.c; cp program copy; rm program; [ "$(./copy)" = 36 ]`,
  },
];

export const workloads: readonly Workload[] = list.map((workload) => ({
  ...workload,
  script: `set -eu\n${AWAIT}${workload.script}\necho ok\n`,
}));

/**
 * Two parties to one lock, each with its own way to the same directory: two mounts, or two guests.
 */
export interface Contention {
  readonly name: string;
  readonly needs: readonly string[];
  /** Takes the lock, and lets go of it when the other has found it taken. Ends with `ok`. */
  readonly holder: string;
  /** Finds the lock taken, then waits for it. Ends with `ok`. */
  readonly contender: string;
}

export const contentions: readonly Contention[] = [
  {
    name: 'flock',
    needs: ['flock'],
    holder: `
      : > lock; exec 9<> lock; flock -x 9; : > held; await refused; sleep 0.5; echo first >> order; flock -u 9; await done`,
    contender: `
      await held; exec 9<> lock; ! flock -n -s 9; ! flock -n -x 9; : > refused
      flock -x 9; echo second >> order; [ "$(cat order)" = "first
second" ] || fail "order: $(cat order)"; : > done`,
  },
  {
    name: 'record locks',
    needs: ['perl'],
    holder: `
      echo data > f
      ${perl(String.raw`
        my $f = opened("f"); lock($f, F_SETLK, "w", 100, 50) or die; open(my $h, ">", "held"); close $h;
        my $tries = 0; until (-e "refused") { select(undef, undef, undef, 0.1); ++$tries < 300 or die "not refused" }
        select(undef, undef, undef, 0.5); open(my $o, ">>", "order"); print $o "first\n"; close $o;
        lock($f, F_SETLK, "u", 0, 0) or die;
      `)}
      await done`,
    contender: `
      await held
      ${perl(String.raw`
        my $f = opened("f"); defined lock($f, F_SETLK, "r", 149, 1) and die "not excluded"; $!{EAGAIN} or die "errno $!";
        conflict($f, "w", 0, 0) eq "w 100+50 0" or die "holder: " . conflict($f, "w", 0, 0);
        lock($f, F_SETLK, "w", 0, 100) or die; open(my $h, ">", "refused"); close $h;
        lock($f, F_SETLKW, "w", 120, 0) or die "waiting: $!"; open(my $o, ">>", "order"); print $o "second\n"; close $o;
      `)}
      [ "$(cat order)" = "first
second" ] || fail "order: $(cat order)"; : > done`,
  },
].map((contention) => ({
  ...contention,
  holder: `set -eu\n${AWAIT}${contention.holder}\necho ok\n`,
  contender: `set -eu\n${AWAIT}${contention.contender}\necho ok\n`,
}));
