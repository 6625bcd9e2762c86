/**
 * Measures the nanoseconds of CPU time that a request takes in core/fuse and core/state. Requests
 * are laid out once in native memory, and a backend that does nothing answers them. Run by hand:
 * `node dist/test/bench/fuse.js [requests]`.
 */
import type { Attributes, Backend, Entry, GuestBuffer, Opened } from '../../core/backend/index.js';
import { Session } from '../../core/fuse/index.js';
import { hostBuffer } from '../../core/memory/index.js';
import { Export } from '../../core/state/index.js';
import { RequestBytes, FuseClient, Op, ROOT } from '../support/fuse-client.js';
import { Loopback } from '../support/loopback.js';
import { Again } from './again.js';

const requests = Number(process.argv[2] ?? 2_000_000);
const PAGE_BYTES = 4096;

const root = {};
const file = {};
const attributes: Attributes = {
  mode: 0o100644,
  ino: 12345,
  size: 1_000_000,
  blocks: 2000,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdev: 0,
  blksize: 4096,
  atime: 1_700_000_000,
  atimeNsec: 1,
  mtime: 1_700_000_000,
  mtimeNsec: 2,
  ctime: 1_700_000_000,
  ctimeNsec: 3,
};
const entry: Entry<object> = { node: file, attributes };
const opened: Opened<object> = { file };
const backend: Backend = {
  mount: () => root,
  key: (node) => (node === root ? 'root' : 'file'),
  lookup: (_parent, name) => (name === 'file' ? entry : undefined),
  getattr: () => attributes,
  open: () => opened,
  read: (_node, _file, buffer: GuestBuffer) => buffer.length,
  write: (_node, _file, buffer: GuestBuffer) => buffer.length,
};

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const shared = await Export.open(backend, { log: quiet, createBuffer: hostBuffer });
const session = new Session(shared);
const client = new FuseClient(new Loopback(session));
await client.init();
const { nodeid } = await client.lookup(ROOT, 'file');
const { fh } = await client.open(nodeid);

const readArgs = new RequestBytes().u64(fh).u64(0).u32(PAGE_BYTES).u32(0).u64(0).u32(0).u32(0);
const writeArgs = new RequestBytes()
  .u64(fh)
  .u64(0)
  .u32(PAGE_BYTES)
  .u32(0)
  .u64(0)
  .u32(0)
  .u32(0)
  .raw(new Uint8Array(PAGE_BYTES));
const cases: readonly (readonly [string, Again])[] = [
  [
    'GETATTR',
    new Again(
      client.encode(Op.GETATTR, nodeid, new RequestBytes().u64(0).u64(0).bytes()),
      [40, 16],
      [16, 104],
    ),
  ],
  ['READ 4 KiB', new Again(client.encode(Op.READ, nodeid, readArgs.bytes()), [40, 40], [16, PAGE_BYTES])],
  [
    'WRITE 4 KiB',
    new Again(client.encode(Op.WRITE, nodeid, writeArgs.bytes()), [40, 40, PAGE_BYTES], [16, 8]),
  ],
  [
    'LOOKUP hit',
    new Again(client.encode(Op.LOOKUP, ROOT, new RequestBytes().name('file').bytes()), [40, 5], [16, 128]),
  ],
  [
    'LOOKUP miss',
    new Again(client.encode(Op.LOOKUP, ROOT, new RequestBytes().name('none').bytes()), [40, 5], [16, 128]),
  ],
];

function run(message: Again, count: number): void {
  for (let i = 0; i < count; i++) session.dispatch(message);
}

for (const [, message] of cases) run(message, 100_000);
for (let round = 0; round < 3; round++) {
  for (const [name, message] of cases) {
    const before = process.memoryUsage().heapUsed;
    const start = process.cpuUsage();
    run(message, requests);
    const { user, system } = process.cpuUsage(start);
    const nanoseconds = ((user + system) * 1000) / requests;
    const bytes = (process.memoryUsage().heapUsed - before) / requests;
    process.stdout.write(
      `${name.padEnd(12)} ${nanoseconds.toFixed(0).padStart(5)} ns  heap ${bytes.toFixed(1)} B/request\n`,
    );
  }
}
