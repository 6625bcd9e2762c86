/**
 * Faults that people have reported of other file systems of this kind, as shell scripts. A script
 * ends with `ok` if the fault is not there. Each runs under `sh -eu` as root, in an empty directory
 * of a mount.
 */
export interface Report {
  /** Tracker and number. */
  readonly of: string;
  /** What must hold, as a sentence. */
  readonly name: string;
  readonly script: string;
  /** What makes the content that is there before the script; in an overlay, its lower layer's. */
  readonly before?: string;
  /** Whether it needs hard links, which a bucket does not have. */
  readonly links?: boolean;
}

/** Runs a program as a user without privilege. */
const AS_USER = 'setpriv --reuid 1234 --regid 2345 --clear-groups --';

export const reports: readonly Report[] = [
  {
    of: 'libkrun/libkrun#769',
    name: 'a file made for writing with a mode that forbids it can be written',
    script: `chmod 777 .; ${AS_USER} perl -MFcntl -e 'sysopen(F, "object", O_CREAT|O_EXCL|O_WRONLY, 0444) or die $!; syswrite(F, "blob") == 4 or die $!; close F or die $!'
      [ "$(cat object)" = blob ]; [ "$(stat -c %a object)" = 444 ]`,
  },
  {
    of: 'lima-vm/lima#5039',
    name: 'a lock file of mode 0 is made, seen and removed',
    script: `chmod 777 .; ${AS_USER} perl -MFcntl -e 'umask 0; sysopen(F, "lock", O_CREAT|O_EXCL|O_RDONLY, 0) or die $!'
      [ "$(stat -c %a lock)" = 0 ]; ${AS_USER} rm -f lock; [ ! -e lock ]`,
  },
  {
    of: 'libkrun/libkrun#705',
    name: 'an open file that another was renamed over can be changed and closed',
    script: `echo old > status; echo new > status.new
      perl -e 'open(F, "+<", "status") or die; rename("status.new", "status") or die; chmod(0600, *F) or die "fchmod: $!"; print F "more"; close F or die "close: $!"'
      [ "$(cat status)" = new ]`,
  },
  {
    of: 'docker/for-mac#6243',
    name: 'a change of owner is seen at once and kept',
    script: `mkdir data; chown 70:70 data; chmod 700 data; [ "$(stat -c %u:%g:%a data)" = 70:70:700 ]`,
  },
  {
    of: 'docker/for-mac#6239',
    name: 'a user makes folders within folders that he has made',
    script: `chmod 777 .; ${AS_USER} sh -c 'mkdir -p node_modules/a/node_modules/b; echo x > node_modules/a/node_modules/b/c; rm -r node_modules'`,
  },
  {
    of: 'docker/for-mac#7406',
    name: 'folders that git makes belong to the one who runs it',
    script: `chmod 777 .; ${AS_USER} env HOME=/nonexistent git init -q repository; [ "$(stat -c %u repository/.git/objects)" = 1234 ]`,
  },
  {
    of: 'rclone/rclone#1598',
    name: 'rsync brings an empty file, which it renames',
    script: `: > source; mkdir to; rsync -a source to/; [ -e to/source ] && [ ! -s to/source ]`,
  },
  {
    of: 'rclone/rclone#2021',
    name: 'touch leaves the size, and sets the time',
    script: `echo 'some content' > file; touch -d '2018-01-27 16:13:15 UTC' file; [ "$(stat -c %s:%Y file)" = 13:1517069595 ]; [ "$(cat file)" = 'some content' ]`,
  },
  {
    of: 'rclone/rclone#2130',
    name: 'an editor that renames a file over another while it has it open saves it',
    script: `echo first > document
      perl -e 'open(F, ">", ".goutputstream") or die; print F "second\\n"; F->flush; rename(".goutputstream", "document") or die $!; close F or die $!'
      [ "$(cat document)" = second ]`,
  },
  {
    of: 'rclone/rclone#2079',
    name: 'a file is opened for writing without being cut, and changed in its middle',
    script: `echo 0123456789 > file; printf abc | dd of=file bs=1 seek=3 conv=notrunc status=none; [ "$(cat file)" = 012abc6789 ]`,
  },
  {
    of: 'rclone/rclone#4936',
    name: 'a file that was just saved is edited again',
    script: `mkdir d; echo one > d/test.txt; cat d/test.txt; sed -i s/one/two/ d/test.txt; [ "$(cat d/test.txt)" = two ]; echo three >> d/test.txt; [ "$(cat d/test.txt)" = "$(printf 'two\\nthree')" ]`,
  },
  {
    of: 'rclone/rclone#9637',
    name: 'a time that is set while a file is open for writing outlives its close',
    script: `perl -e 'open(F, ">", "file") or die; print F "data"; F->flush; utime(1000000000, 1000000000, *F) or die; close F or die'
      [ "$(stat -c %Y file)" = 1000000000 ]`,
  },
  {
    of: 'google/gvisor#6739',
    name: 'two names of a file have one content, size, owner and time',
    links: true,
    script: `echo a > one; ln one two; echo b >> two; chown 5:6 one; touch -d @5 two
      [ "$(cat one)" = "$(printf 'a\\nb')" ]; [ "$(stat -c %i:%s:%u:%Y one)" = "$(stat -c %i:%s:%u:%Y two)" ]`,
  },
  {
    of: 'google/gvisor#5545',
    name: 'a deep tree is removed',
    script: `mkdir -p 1/2/3/4/5/6/7/8/9/10/11/12; touch 1/2/3/4/5/6/7/8/f; rm -rf 1; [ ! -e 1 ]`,
  },
  {
    of: 'google/gvisor#7297',
    name: 'a chain of relative links leads to what the middle one was exchanged for',
    script: `mkdir real_1 real_2; echo initial > real_1/target; echo final > real_2/target; ln -s real_1 intermediate; ln -s intermediate/target target
      [ "$(cat target)" = initial ]; ln -s real_2 tmp; mv -T tmp intermediate; [ "$(cat target)" = final ]`,
  },
  {
    of: 'mem9-ai/drive9#860',
    name: 'a listing after a creation has the new name, although it was listed before',
    script: `ls > /dev/null; echo hello > new.txt; [ "$(ls)" = new.txt ]; mkdir d; ls d; cp new.txt d/; [ "$(ls d)" = new.txt ]`,
  },
  {
    of: 'GoogleCloudPlatform/gcsfuse#2570',
    name: 'a temporary file is renamed while it is open, and written on',
    script: `perl -e 'open(F, ">", ".tmp") or die; print F "a"; F->flush; rename(".tmp", "final") or die; print F "b"; close F or die'; [ "$(cat final)" = ab ]`,
  },
  {
    of: 'hanwen/go-fuse#99',
    name: 'a name of two is removed, and the other stays what it was',
    links: true,
    script: `echo x > a; ln a b; mv b c; rm a; [ "$(cat c)" = x ]; [ "$(stat -c %h c)" = 1 ]; [ "$(ls)" = c ]`,
  },
  {
    of: 'kahing/goofys#432',
    name: 'a sparse file is copied into a folder',
    script: `mkdir d; truncate -s 64M big; echo end >> big; cp --sparse=always big d/; cmp big d/big`,
  },
  {
    of: 'kahing/goofys#99',
    name: 'a file is appended to, and keeps its mode and attributes when it is renamed',
    script: `echo a > f; chmod 640 f; setfattr -n user.note -v kept f; echo b >> f; mv f g; [ "$(stat -c %a g)" = 640 ]; [ "$(getfattr --only-values -n user.note g)" = kept ]; [ "$(cat g)" = "$(printf 'a\\nb')" ]`,
  },
  {
    of: 'kahing/goofys#69',
    name: 'a folder stays when its last file goes',
    script: `mkdir d; echo > d/f; rm d/f; [ -z "$(ls d)" ]; echo again > d/f; [ "$(cat d/f)" = again ]; rm -r d; [ ! -e d ]`,
  },
  {
    of: 'kahing/goofys#109',
    name: 'a folder with files in it is renamed',
    script: `mkdir -p foo/sub; echo 1 > foo/1.txt; echo 2 > foo/sub/2.txt; mv foo bar; [ "$(cat bar/1.txt bar/sub/2.txt)" = "$(printf '1\\n2')" ]; [ ! -e foo ]`,
  },
  {
    of: 'kahing/goofys#319',
    name: 'names with signs that mean something in URLs are what they are',
    script: `for name in 'folder#1#' 'Hello World.jpg' 'a+b' '100%' 'q?x=1&y' 'comma,2' '(1)' "it's" 'naïve' '%23' '~t' '=' ';' '@juno' '[x]' 'back\\slash'; do mkdir "$name"; echo "$name" > "$name/$name"; [ "$(cat "$name/$name")" = "$name" ]; [ "$(ls "$name")" = "$name" ]; done; [ "$(ls | wc -l)" = 16 ]; rm -r -- *; [ -z "$(ls)" ]`,
  },
  {
    of: 'kahing/goofys#580',
    name: 'a name with a plus is renamed',
    script: `touch foo+; mv foo+ foo; [ "$(ls)" = foo ]; mv foo 'a b+c%20'; [ "$(ls)" = 'a b+c%20' ]`,
  },
  {
    of: 's3fs-fuse/s3fs-fuse#259',
    name: 'a folder named twice the same word takes files',
    script: `mkdir showshow; echo content > showshow/test; [ "$(cat showshow/test)" = content ]`,
  },
  {
    of: 's3fs-fuse/s3fs-fuse#2678',
    name: 'the times of the mounted directory can be set',
    script: `cd ..; touch -a -m -d '2025-05-10 12:00:00 UTC' .; [ "$(stat -c %Y .)" = 1746878400 ]`,
  },
  {
    of: 'containers/fuse-overlayfs#354',
    name: 'a file renamed over a removed one is gone from its old name',
    script: `touch testfile testfile2; rm testfile2; touch testfile; mv testfile testfile2; [ "$(ls)" = testfile2 ]`,
  },
  {
    of: 'containers/fuse-overlayfs#279',
    name: 'a link takes the name of what was moved away',
    script: `touch a.txt; mv a.txt a2.txt; touch a3.txt; ln -s a3.txt a.txt; [ "$(ls | tr '\\n' ' ')" = 'a.txt a2.txt a3.txt ' ]; [ "$(readlink a.txt)" = a3.txt ]`,
  },
  {
    of: 'containers/fuse-overlayfs#306',
    name: 'a folder is moved out of one that was removed and made again',
    script: `mkdir -p a/b; touch a/b/old; rm -rf a; mkdir -p a/b; mv a/b b; [ -z "$(ls a)" ]; [ -z "$(ls b)" ]`,
  },
  {
    of: 'containers/fuse-overlayfs#273',
    name: 'a rename that must not replace succeeds where the name was removed',
    script: `touch x y; rm y; mv -n x y; [ "$(ls)" = y ]`,
  },
  {
    of: 'containers/fuse-overlayfs#151',
    name: 'a name that looks like a whiteout of another kind hides nothing else',
    script: `mkdir sub; touch .wh.test || true; touch sub/test; [ -e sub/test ]; [ "$(ls sub)" = test ]`,
  },
  {
    of: 's3fs-fuse/s3fs-fuse#1811',
    name: 'an open file that was just written is cut to nothing and written again',
    script: `perl -e 'open(F, ">", "f") or die; print F "x" x 100000; F->flush; truncate(F, 0) or die $!; truncate("f", 0) or die $!; seek(F, 0, 0); print F "new"; close F or die $!'
      [ "$(cat f)" = new ]`,
  },
  {
    of: 's3fs-fuse/s3fs-fuse#1776',
    name: 'a file is made 100,000 MiB long without writing any',
    script: `dd if=/dev/zero of=test bs=1M count=0 seek=100000 status=none; [ "$(stat -c %s test)" = 104857600000 ]; rm test`,
  },
  {
    of: 's3ql/s3ql#182',
    name: 'a file is replaced by a shorter one in place',
    script: `head -c 1300000 /dev/urandom > a; head -c 1200000 /dev/urandom > b; cp b a; cmp a b; head -c 1300000 /dev/urandom > a; dd if=b of=a bs=64k status=none; cmp a b`,
  },
  {
    of: 'lima-vm/lima#1824',
    name: 'a socket is made in a share, and connected to',
    script: `perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Local => "sock", Listen => 1) or die $!; my $c = IO::Socket::UNIX->new(Peer => "sock") or die $!; $s->accept or die $!'
      [ -S sock ]; rm sock`,
  },
  {
    of: 'lima-vm/lima#481',
    name: 'a pipe is made in a share, and has what is put into it',
    script: `mkfifo f; echo hello > f & [ "$(cat f)" = hello ]; wait; rm f`,
  },
  {
    of: 'kahing/goofys#216',
    name: 'a file is moved over one whose name is the beginning of its own',
    script: `echo 1 > new.jpg; echo 2 > new; cat new new.jpg > /dev/null; mv new.jpg new; [ "$(ls)" = new ]; [ "$(cat new)" = 1 ]; mv new new.jpg; mv new.jpg new; [ "$(cat new)" = 1 ]`,
  },
  {
    of: 'kahing/goofys#474',
    name: 'a walk through nested folders finds all files, each time',
    script: `for d in a/b/c a/b/d e/f; do mkdir -p $d; for i in 1 2 3; do : > $d/$i; done; done; [ "$(find . -type f | wc -l)" = 9 ]; [ "$(find . -type f | wc -l)" = 9 ]`,
  },
  {
    of: 'yandex-cloud/geesefs#53',
    name: 'a folder that was just filled is renamed with all that is in it',
    script: `mkdir -p m/e; for i in 1 2 3 4 5 6; do head -c 100000 /dev/urandom > m/e/$i; done; sum=$(cat m/e/* | md5sum); mv m/e m/f; [ "$(cat m/f/* | md5sum)" = "$sum" ]; [ "$(ls m)" = f ]`,
  },
  {
    of: 'containers/fuse-overlayfs#192',
    name: 'a new name of a file is counted once',
    links: true,
    script: `touch test; ln test test2; [ "$(stat -c %h test test2 | tr '\\n' ' ')" = '2 2 ' ]`,
  },
  {
    of: 'cloud-hypervisor/fuse-backend-rs#210',
    name: 'two names of a file have one inode number',
    links: true,
    script: `echo x > a; ln a b; [ "$(find . -inum "$(stat -c %i a)" | wc -l)" = 2 ]; rm a; echo y >> b; [ "$(cat b)" = "$(printf 'x\\ny')" ]`,
  },
  {
    of: 'containers/fuse-overlayfs#478',
    name: 'a folder that was removed and made again, and one within it, are empty',
    before: `mkdir -p tree/a/b; echo info > tree/a/b/info; echo page > tree/a/b/page`,
    script: `rm -r tree; mkdir -p tree/a/b; [ -z "$(ls tree/a/b)" ]; rmdir tree/a/b; mkdir tree/a/b; echo new > tree/a/b/info; mv tree tree2; mkdir -p tree/a/b; [ -z "$(ls tree/a/b)" ]; rmdir tree/a/b tree/a tree; rm -r tree2; [ -z "$(ls)" ]`,
  },
  {
    of: 'containers/fuse-overlayfs#307',
    name: 'a file that nobody may write is given another mode, and removed',
    before: `touch foo bar; chmod 444 foo bar`,
    script: `chmod u+w foo; [ "$(stat -c %a foo)" = 644 ]; rm -f foo bar; [ -z "$(ls)" ]`,
  },
  {
    of: 'containers/fuse-overlayfs#435',
    name: 'the names of a file are counted before all of them were seen',
    links: true,
    before: `mkdir sub; echo x > one; ln one two; ln one sub/three`,
    script: `[ "$(stat -c %h two one sub/three | tr '\\n' ' ')" = '3 3 3 ' ]; rm two; [ "$(stat -c %h one)" = 2 ]`,
  },
  {
    of: 'containers/fuse-overlayfs#69',
    name: 'a removed file is made again by a rename, and moved on',
    before: `echo old > compiled`,
    script: `rm compiled; echo new > .tmp; mv .tmp compiled; [ "$(cat compiled)" = new ]; mv compiled x; [ "$(ls)" = x ]; [ "$(cat x)" = new ]`,
  },
  {
    of: 'moby/moby#25409',
    name: 'a folder is renamed, and what is in it moved out, and its old name is free',
    before: `mkdir -p d/e; echo deep > d/e/f; ln -s f d/e/l`,
    script: `mv d g; [ "$(cat g/e/l)" = deep ]; mv g/e .; [ "$(cat e/f)" = deep ]; [ -z "$(ls g)" ]; rmdir g; mkdir d; [ -z "$(ls d)" ]`,
  },
];
