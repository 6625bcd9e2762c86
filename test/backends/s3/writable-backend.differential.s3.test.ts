import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { optionsSchema } from '../../../backends/s3/options.js';
import { WritableBackend } from '../../../backends/s3/writable-backend.js';
import { MountedExport, shell, temporaryDirectory } from '../../support/host-mount.js';
import { context, removeFolders, temporaryFolder, TestBucket } from './support.js';
import { withSeed } from '../../support/random.js';

/** Sequences of each kind, and where to begin; RUNS=100 for a long run. */
const RUNS = Number(process.env['RUNS'] ?? 4);

/**
 * A random sequence of operations, the same for the same seed, that prints what each of them gave.
 */
const SCRIPT = String.raw`
use strict; use Fcntl; use POSIX; use Digest::MD5 qw(md5_hex);
srand($ENV{SEED}); umask 022; my %open; my @names = qw(a b c d/e d/f d g);
sub name { $names[int rand @names] }
sub result { my ($what, $ok) = @_; printf "%s: %s\n", $what, $ok ? "ok" : "errno " . ($! + 0) }
sub bytes { my $n = int rand shift; join "", map { chr(97 + int rand 26) } 1..$n }
sub digest { my $f = shift; seek $f, 0, 0; local $/; binmode $f; my $all = <$f>; defined $all ? length($all) . " " . md5_hex($all) : "unreadable" }
for my $step (1..120) {
  my ($n, $m, $k) = (name(), name(), int rand 17);
  if ($k < 3) { my $flags = (O_CREAT|O_RDWR, O_CREAT|O_EXCL|O_RDWR, O_CREAT|O_TRUNC|O_RDWR, O_RDWR)[rand 4];
    my $ok = sysopen(my $f, $n, $flags, 0640); result("open $n $flags", $ok); $open{int rand 3} = $f if $ok }
  elsif ($k < 6) { my $i = int rand 3; my $f = $open{$i} or next; my $at = int rand 200000; my $b = bytes(5000);
    sysseek $f, $at, 0; my $w = syswrite $f, $b; printf "write %d at %d: %s\n", length $b, $at, $w // "errno " . ($! + 0) }
  elsif ($k == 6) { my $f = $open{int rand 3} or next; my $s = int rand 150000; result("truncate $s", truncate $f, $s) }
  elsif ($k == 7) { my $f = $open{int rand 3} or next; print "read: ", digest($f), "\n" }
  elsif ($k == 8) { result("rename $n $m", rename $n, $m) }
  elsif ($k == 9) { result("unlink $n", unlink $n) if !-d $n || -l $n }
  elsif ($k == 10) { result("mkdir $n", mkdir $n, 0750) }
  elsif ($k == 11) { result("rmdir $n", rmdir $n) }
  elsif ($k == 12) { result("symlink $n", symlink "to-$step", $n); print "readlink: ", readlink($n) // "errno " . ($! + 0), "\n" }
  elsif ($k == 13) { next if -l $n; result("chmod $n", chmod 0600 + int rand 64, $n); result("utime $n", utime 5, 1000000 + $step, $n) }
  elsif ($k == 16) { my @files = grep { -f && !-l } @names; system "sync", @files if @files }
  elsif ($k == 14) { my $f = delete $open{int rand 3}; close $f if $f }
  else { my @s = lstat $n; my $is_dir = @s && S_ISDIR($s[2]);
    print "stat $n: ", @s ? join(" ", sprintf("%o", $s[2]), $is_dir ? "-" : ($s[7], $s[3])) : "errno " . ($! + 0), "\n";
    for my $d (".", "d") { if (opendir my $h, $d) { print "$d: ", join(" ", sort grep { !/^\./ } readdir $h), "\n" } } }
}
close $_ for values %open;
for my $n (sort @names) { next unless -f $n && !-l $n; open my $f, "<", $n or die; print "$n ", digest($f), " ", (stat $f)[9] < 2000000 ? (stat _)[9] : "now", "\n" }
print "done\n";
`;

/**
 * Uploads go on in the background while names and files change. Where no metadata is trusted, nodes
 * are forgotten all the time.
 */
const mounts = {
  'as it is by default': { writebackDelay: 0.02 },
  'that believes nothing': { writebackDelay: 0.02, metadataTtl: 0, negativeTtl: 0, openTtl: 0 },
  'that uploads late': { writebackDelay: 600 },
};

for (const [how, settings] of Object.entries(mounts)) {
  describe(`a bucket ${how}, and a directory of this host`, () => {
    let bucket: TestBucket;
    let backend: WritableBackend;
    let mounted: MountedExport;
    before(async () => {
      bucket = await TestBucket.create();
      const options = optionsSchema.parse({
        bucket: bucket.name,
        endpoint: bucket.endpoint,
        pathStyle: true,
        cacheDir: await temporaryFolder(),
        ...settings,
      });
      backend = new WritableBackend(options);
      mounted = await MountedExport.open(backend);
    });
    after(async () => {
      await mounted[Symbol.asyncDispose]();
      await removeFolders();
    });

    it(`answer ${RUNS} random sequences of operations alike`, async (t) => {
      await using host = await temporaryDirectory();
      await withSeed(t, 1, async (first) => {
        for (let seed = first; seed < first + RUNS; seed++) {
          const script = `mkdir s${seed}; cd s${seed}\nSEED=${seed} perl - <<'PERL'\n${SCRIPT}\nPERL\n`;
          const expected = await shell(script, host.path);
          const found = await shell(script, mounted.directory);
          assert.match(expected.output, /done\n$/);
          assert.equal(found.output, expected.output, `seed ${seed}`);
          await backend.syncfs(context);
          const { output } = await shell(`find s${seed} -mindepth 1 | sort`, host.path);
          const keys = (await bucket.keys(`s${seed}/`)).slice(1).map((key) => key.replace(/\/$/, ''));
          assert.equal(`${keys.sort().join('\n')}\n`, output, `seed ${seed}: what is in the bucket`);
        }
      });
    });
  });
}
