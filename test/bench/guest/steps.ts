/** How much the steps do. */
export interface Amount {
  /** Small files. */
  readonly files: number;
  /** Files of the tree that is unpacked, cloned and copied. */
  readonly tree: number;
  /** Transactions of the data base. */
  readonly transactions: number;
  /** MiB of the file that fio reads and writes. */
  readonly fileMiB: number;
  /** MiB that fio moves in blocks of 4 KiB in each step. */
  readonly smallMiB: number;
}

/** A share of what `docs/performance.md` was measured with. @param share above 0; 1: all of it. */
export function shareOf(share: number): Amount {
  const part = (whole: number): number => Math.max(1, Math.round(whole * share));
  return {
    files: part(6000),
    tree: part(2000),
    transactions: part(300),
    fileMiB: part(256),
    smallMiB: part(48),
  };
}

/** A step that a guest takes on each daemon's share; its time and the daemon's CPU are measured. */
export interface Step {
  readonly key: string;
  readonly title: string;
  /**
   * What `files.c` obeys: a script of the guest's shell, or calls of its own. Undefined for fio's
   * steps: one fio runs them all, since it takes long to start.
   */
  readonly script?: string;
  /** Options of fio's job. */
  readonly job?: string;
}

/** Steps that go together: later ones use what the earlier have left. */
export interface Group {
  readonly key: string;
  readonly steps: readonly Step[];
  /** Programs of the host that it needs. */
  readonly programs: readonly string[];
}

/** Where the guest has, in its own memory, what is unpacked and cloned. */
const MATERIAL = '/tmp/material';

/** A script that makes the material. */
export function materialScript({ tree, transactions }: Amount, groups: readonly Group[]): string {
  const wanted = groups.map(({ key }) => key);
  const lines = ['set -e', `mkdir ${MATERIAL}`, `cd ${MATERIAL}`];
  if (wanted.includes('tree') || wanted.includes('git'))
    lines.push(`files tree tree ${tree}`, 'tar cf tree.tar tree');
  if (wanted.includes('git')) {
    lines.push(
      // git looks for its own parts by name.
      'for part in upload-pack receive-pack; do ln -s git /bin/git-$part; done',
      'git init -q --template= -b main repository',
      'cp -r tree repository',
      'cd repository',
      'git add .',
      'git -c user.name=a -c user.email=a@b commit -qm tree',
      'git gc -q',
      'cd ..',
    );
  }
  if (wanted.includes('sqlite')) {
    lines.push(
      'exec 4>inserts.sql',
      "echo 'create table t(id integer primary key, name text, value blob);' >&4",
      `for i in $(seq ${transactions}); do`,
      '  echo "insert into t(name, value) values($i, zeroblob(200));" >&4',
      'done',
    );
  }
  return lines.join('\n');
}

/** All groups, in the order of the tables. */
export function groupsOf({ files, tree, transactions, fileMiB, smallMiB }: Amount): readonly Group[] {
  const many = files.toLocaleString('en');
  const mib = (depth: number, what: string): string => `${what}, 1 MiB, depth ${depth}`;
  const small = (depth: number, what: string): string => `random ${what}, 4 KiB, depth ${depth}`;
  const job = (rw: string, bytes: string, depth: number, total: number): string =>
    `rw=${rw}\nbs=${bytes}\niodepth=${depth}\nio_size=${total}m`;
  return [
    {
      key: 'files',
      programs: [],
      steps: [
        { key: 'create', title: `create + write + close, ${many} files`, script: `!create ${files}` },
        { key: 'stat', title: `stat of ${many} files`, script: `!stat ${files}` },
        { key: 'read', title: `open + read + close, ${many} files`, script: `!read ${files}` },
        { key: 'unlink', title: `unlink of ${many} files`, script: `!unlink ${files}` },
      ],
    },
    {
      key: 'tree',
      programs: ['find'],
      steps: [
        { key: 'untar', title: `untar of ${tree} files`, script: `tar xf ${MATERIAL}/tree.tar` },
        { key: 'find', title: 'find -ls of the tree', script: '/bin/find tree -ls >/dev/null' },
        { key: 'copy', title: 'cp -r of the tree', script: 'cp -r tree copy' },
        { key: 'remove', title: 'rm -r of both', script: 'rm -r tree copy' },
      ],
    },
    {
      key: 'git',
      programs: ['git'],
      steps: [
        {
          key: 'clone',
          title: `git clone of ${tree} files`,
          script: `git clone -q --template= file://${MATERIAL}/repository clone`,
        },
        { key: 'status', title: 'git status of the clone', script: 'git -C clone status --short' },
      ],
    },
    {
      key: 'sqlite',
      programs: ['sqlite3'],
      steps: [
        {
          key: 'sqlite',
          title: `sqlite, ${transactions} transactions`,
          script: `sqlite3 base <${MATERIAL}/inserts.sql`,
        },
      ],
    },
    {
      key: 'fio',
      programs: ['fio'],
      steps: [
        {
          key: 'fill',
          title: `first write of ${fileMiB} MiB`,
          script: `dd if=/dev/zero of=big bs=1M count=${fileMiB} conv=fsync 2>/dev/null`,
        },
        { key: 'read-1m-1', title: mib(1, 'read'), job: job('read', '1m', 1, fileMiB) },
        { key: 'read-1m-32', title: mib(32, 'read'), job: job('read', '1m', 32, fileMiB) },
        { key: 'write-1m-1', title: mib(1, 'write'), job: job('write', '1m', 1, fileMiB) },
        { key: 'write-1m-32', title: mib(32, 'write'), job: job('write', '1m', 32, fileMiB) },
        { key: 'read-4k-1', title: small(1, 'read'), job: job('randread', '4k', 1, smallMiB) },
        { key: 'read-4k-32', title: small(32, 'read'), job: job('randread', '4k', 32, smallMiB) },
        { key: 'write-4k-1', title: small(1, 'write'), job: job('randwrite', '4k', 1, smallMiB) },
        { key: 'write-4k-32', title: small(32, 'write'), job: job('randwrite', '4k', 32, smallMiB) },
      ],
    },
  ];
}
