import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Gathered } from '../../../core/backend/accelerator.js';
import { type Attributes, type Awaitable, type BackendSpec, OpenFlags } from '../../../core/backend/index.js';
import { hostBuffer } from '../../../core/memory/host-buffer.js';
import { enterConfinement, inheritedConfinement } from '../../../core/plugins/confine.js';
import { BackendRegistry, LAYERS, parseLayers } from '../../../core/plugins/index.js';
import { intrude } from './intruder.js';
import { root, serveDirectory } from './harness.js';

/** A process that confines itself as a daemon does, and then tries what it may and may not do. */
const [base, layers, mode, type = 'passthrough'] = process.argv.slice(2) as [
  string,
  string?,
  string?,
  string?,
];
const share = join(base, 'share');
const log: Record<string, unknown> = {};
const outcomes: Record<string, string> = {};

const passthrough = { type: 'passthrough', sharedDir: share };
/** What is served: each kind of backend, with the share as its folder. */
const BACKENDS: Record<string, BackendSpec> = {
  passthrough,
  memfs: { type: 'memfs', save: join(share, 'volume') },
  overlay: { type: 'overlay', lowers: [passthrough], upper: { type: 'memfs' } },
  s3: { type: 's3', bucket: 'b', endpoint: 'http://127.0.0.1:9', cacheDir: share },
};
const registry = new BackendRegistry();
const inherited = inheritedConfinement();
const entered =
  inherited?.entered ??
  (await enterConfinement(
    { exports: [{ tag: 't', socket: join(base, 'sockets', 's'), backend: BACKENDS[type]! }] },
    registry,
    {
      layers: layers === undefined ? LAYERS : parseLayers(layers),
      seccompAction: 'errno',
      missingLayers: 'warn',
      capabilities: [],
      reads: [],
    },
  ));
const confined = entered?.confine({
  debug() {},
  warn() {},
  error() {},
  info: (fields, msg) => Object.assign(log, fields, { msg }),
});

async function attempt(name: string, action: () => unknown): Promise<void> {
  try {
    const result = await action();
    outcomes[name] = typeof result === 'string' ? result : 'ok';
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    outcomes[name] = code === undefined || error instanceof assert.AssertionError ? message : code;
  }
}

const { backend, node } = serveDirectory(share);

async function content(parent: typeof node, name: string): Promise<string> {
  const { node: found } = (await backend.lookup(parent, name, root))!;
  return read(found);
}

async function read(found: typeof node): Promise<string> {
  const { file } = await backend.open(found, OpenFlags.READ_WRITE, root);
  const buffer = hostBuffer(64);
  const count = await backend.read(found, file, buffer, 0, root);
  await backend.release(found, file);
  return Buffer.from(buffer.bytes.subarray(0, count)).toString();
}

/**
 * Asks for the attributes of many files that have no descriptor, together and again, while the host
 * moves some away.
 */
async function looks({
  backend: few,
  accelerator,
  node: top,
}: ReturnType<typeof serveDirectory>): Promise<void> {
  const FILES = 100;
  const path = (name: string): string => join(share, name);
  for (let i = 0; i < FILES; i++) fs.writeFileSync(path(`f${i}`), Buffer.alloc(i));
  // The files must be older than a tick of the file system's clock. Then the time of birth tells
  // them apart.
  await sleep(50);
  const nodes: (typeof node)[] = [];
  for (let i = 0; i < FILES; i++) nodes.push((await few.lookup(top, `f${i}`, root))!.node);
  for (let round = 0; round < 60; round++) {
    if (round === 20) for (let i = 0; i < FILES; i += 3) fs.renameSync(path(`f${i}`), path(`moved ${i}`));
    if (round === 40) for (let i = 0; i < FILES; i += 3) fs.writeFileSync(path(`f${i}`), 'another');
    const asked: number[] = [];
    for (let i = 0; i < 40; i++) {
      const which = (i * 7 + round * (1 + (i % 3))) % FILES;
      for (const again of [which, which]) {
        if (asked.length < 60 && accelerator.gatherGetattr(nodes[again]!, undefined, root)) asked.push(again);
      }
    }
    assert.ok(asked.length > 30, `${asked.length} were gathered`);
    const results: Awaitable<Gathered<typeof node>>[] = [];
    accelerator.submit(results);
    assert.deepEqual(
      results.map((result) => (result as Attributes).size),
      asked,
    );
  }
  // A younger file must not be taken for one that was forgotten.
  for (const known of nodes.splice(0)) few.forget(known);
  for (let i = 0; i < FILES; i++) fs.writeFileSync(path(`young ${i}`), Buffer.alloc(i));
  for (let i = 0; i < FILES; i++) nodes.push((await few.lookup(top, `young ${i}`, root))!.node);
  for (let round = 0; round < 3; round++) {
    for (const [i, known] of nodes.entries()) {
      assert.equal((await few.getattr(known, undefined, root)).size, i);
    }
  }
}

if (mode === 'cold') {
  const d = (await backend.lookup(node, 'd', root))!.node;
  const cold = (await backend.lookup(d, 'cold', root))!.node;
  const fresh = (await backend.lookup(d, 'fresh', root))!.node;
  /** The parent has the right to make the kernel drop the names that nobody uses. */
  const drop = async (): Promise<void> => {
    process.stdout.write('drop\n');
    await new Promise((dropped) => process.stdin.once('data', dropped));
  };
  await drop();
  await attempt('link at once', async () => void (await backend.link(fresh, node, 'again', root)));
  await drop();
  await attempt('open', () => read(cold));
  await drop();
  await attempt('resize', async () => void (await backend.setattr(cold, { size: 3 }, undefined, root)));
  await drop();
  await attempt('link', async () => void (await backend.link(cold, node, 'linked', root)));
  await backend.rename(node, 'linked', d, 'renamed', 0, root);
  await drop();
  await attempt('renamed', async () => void (await read(cold)));
} else if (mode === 'looks') {
  await attempt('looks', () => looks(serveDirectory(share, { cachedDescriptors: 16 })));
} else if (mode === 'intrude') {
  await confined!.seal();
  await intrude(base, share, attempt);
} else {
  await attempt('read through the share', () => content(node, 'file'));
  await attempt('create in the share', async () => {
    const created = await backend.create(node, 'new', 0o600, OpenFlags.READ_WRITE, { ...root, uid: 1234 });
    await backend.release(created.node, created.file);
  });
  await attempt('read the secret', () => void fs.readFileSync(join(base, 'secret')));
  await attempt('write beside the share', () => fs.writeFileSync(join(base, 'new'), ''));
  await attempt(
    'read the secret on the pool',
    async () => void (await fs.promises.readFile(join(base, 'secret'))),
  );
  await attempt('list the root directory', () => void fs.readdirSync('/'));
  await attempt('open a device in the share', () => fs.closeSync(fs.openSync(join(share, 'null'), 'r')));
  await attempt('start a program', () => {
    const { error } = spawnSync('/bin/true');
    if (error !== undefined) throw error;
  });
  await attempt(
    'make a socket',
    () =>
      new Promise<void>((made, failed) => {
        const server = createServer().on('error', failed);
        server.listen(join(base, 'sockets', 's'), () => server.close(() => made()));
      }),
  );
}

const threads = fs.readdirSync('/proc/self/task').map((thread) => {
  const status = fs.readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
  const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '';
  return {
    capabilities: field('CapPrm'),
    noNewPrivs: field('NoNewPrivs'),
    seccomp: field('Seccomp'),
    mounts: fs.readlinkSync(`/proc/self/task/${thread}/ns/mnt`),
  };
});
process.stdout.write(`${JSON.stringify({ threads, log, outcomes })}\n`, () => process.exit(0));
