import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { mkdir, readFile, rmdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, it } from 'node:test';
import memfs from '../../../backends/memfs/index.js';
import {
  type Attributes,
  type Backend,
  type Context,
  FileType,
  FsError,
  type GuestBuffer,
  type Opened,
} from '../../../core/backend/index.js';
import { Session } from '../../../core/fuse/index.js';
import { HostMount, MountError } from '../../../core/mount/index.js';
import { mountDirectly, unmountDirectly } from '../../../core/mount/direct-mount.js';
import {
  pluginEnvironment,
  keepingLog,
  MountedExport,
  shell,
  temporaryDirectory,
} from '../../support/host-mount.js';

function memory(): Backend | Promise<Backend> {
  const environment = pluginEnvironment();
  return memfs.create(memfs.options.parse({ size: '64m' }), environment);
}

/** The line of /proc/self/mounts for a directory. */
async function mountLine(directory: string): Promise<string | undefined> {
  const lines = (await readFile('/proc/self/mounts', 'utf8')).split('\n');
  return lines.find((line) => line.split(' ')[1] === directory);
}

/** A backend with one file whose reads never end by themselves. */
class Stuck implements Backend<object> {
  readonly root = {};
  readonly file = {};
  readonly events: string[] = [];
  readonly attributes = new Map<object, Attributes>([
    [this.root, { mode: FileType.DIRECTORY | 0o755 }],
    [this.file, { mode: FileType.REGULAR | 0o444, size: 4096 }],
  ]);

  mount(): object {
    return this.root;
  }

  lookup(parent: object, name: string) {
    return parent === this.root && name === 'file'
      ? { node: this.file, attributes: this.attributes.get(this.file)! }
      : undefined;
  }

  getattr(node: object): Attributes {
    return this.attributes.get(node)!;
  }

  /** Reads past the page cache. With it, read-ahead would wait in the reader's place. */
  open(): Opened<undefined> {
    return { file: undefined, directIo: true };
  }

  read(
    _node: object,
    _file: unknown,
    _buffer: GuestBuffer,
    _offset: number,
    context: Context,
  ): Promise<number> {
    this.events.push('read');
    return new Promise((_resolve, reject) => {
      context.signal.addEventListener('abort', () => {
        this.events.push('aborted');
        reject(FsError.of('EINTR'));
      });
    });
  }
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

async function mountAndWrite(method: 'direct' | 'fusermount'): Promise<void> {
  await using mounted = await MountedExport.open(await memory(), { mount: { method } });
  assert.equal((await shell('head -c 2000000 /dev/zero > f', mounted.directory)).code, 0);
}

function unopened(): never {
  throw new Error('a session was opened without a mount');
}

function refused(
  directory: string,
  message: RegExp,
  method: 'direct' | 'fusermount' = 'direct',
): Promise<void> {
  const opened = HostMount.open({ directory, source: 'x', log: keepingLog(), openSession: unopened, method });
  return assert.rejects(opened, (error) => error instanceof MountError && message.test(error.message));
}

describe('a host mount', () => {
  for (const method of ['direct', 'fusermount'] as const) {
    it(`by ${method} shows its type and source, serves, and goes`, async () => {
      await using mounted = await MountedExport.open(await memory(), { mount: { method, source: 'a,b' } });
      const line = await mountLine(mounted.directory);
      assert.match(line!, /^a,b .* fuse\.virtiofs-kit rw,.*default_permissions,allow_other/);
      assert.deepEqual(await shell('echo hi > f; cat f', mounted.directory), { code: 0, output: 'hi\n' });
      await mounted.mounts[0]!.unmount();
      assert.equal(await mountLine(mounted.directory), undefined);
      await mounted.mounts[0]!.ended;
    });
  }

  it('is nosuid, nodev or read-only as asked', async () => {
    const options = { readOnly: true, setuid: false, devices: false };
    for (const method of ['direct', 'fusermount'] as const) {
      await using mounted = await MountedExport.open(await memory(), { mount: { method, ...options } });
      assert.match((await mountLine(mounted.directory))!, / ro,nosuid,nodev,/);
      assert.notEqual((await shell('touch f', mounted.directory)).code, 0);
    }
  });

  it('ends when somebody else unmounts it', async () => {
    await using mounted = await MountedExport.open(await memory());
    assert.equal((await shell('cd /; umount "$OLDPWD"', mounted.directory)).code, 0);
    await mounted.mounts[0]!.ended;
    await mounted.mounts[0]!.unmount();
    assert.deepEqual(mounted.log.lines, []);
  });

  it('leaves the tree at once where a file is in use, and takes the file away from its user', async () => {
    await using mounted = await MountedExport.open(await memory());
    const user = shell(
      `exec 3> held; : > ready
      tries=0; while grep -q "$0" /proc/mounts; do tries=$((tries + 1)); [ $tries -lt 100 ] || exit 1; sleep 0.1; done
      echo still >&3 && echo "wrote after it left the tree"
      tries=0; while echo more >&3; do tries=$((tries + 1)); [ $tries -lt 100 ] || exit 1; sleep 0.1; done`,
      mounted.directory,
    );
    while ((await shell('[ -e ready ]', mounted.directory)).code !== 0) await sleep(20);
    await mounted.mounts[0]!.unmount();
    const { code, output } = await user;
    assert.equal(code, 0);
    assert.match(output, /^wrote after it left the tree\n/);
    assert.match(output, /(not connected|aborted|I\/O error)/);
  });

  for (const method of ['direct', 'fusermount']) {
    it(`by ${method} leaves no dead mount where its process ends without unmounting`, async () => {
      const program = fileURLToPath(new URL('../../support/mount-and-exit.js', import.meta.url));
      const child = await new Promise<{ code: unknown; directory: string }>((resolve) => {
        execFile(process.execPath, [program, method], (error, stdout) => {
          resolve({ code: error?.code, directory: stdout });
        });
      });
      assert.equal(child.code, 3);
      assert.equal(await mountLine(child.directory), undefined);
      await rmdir(child.directory);
    });
  }

  it('answers a reader that is killed, and one that is still there at the end', async () => {
    const backend = new Stuck();
    {
      await using mounted = await MountedExport.open(backend);
      const killed = await shell('timeout -s KILL 0.5 cat file; echo $?', mounted.directory);
      assert.match(killed.output, /137\n$/);
      while (backend.events.length < 2) await sleep(10);
      assert.deepEqual(backend.events, ['read', 'aborted']);
      const waiting = shell('cat file', mounted.directory);
      while (backend.events.length < 3) await sleep(10);
      await mounted.mounts[0]!.unmount();
      assert.notEqual((await waiting).code, 0);
      assert.deepEqual(mounted.log.lines, []);
    }
    assert.deepEqual(backend.events, ['read', 'aborted', 'read', 'aborted']);
  });

  it('gives back every descriptor', async () => {
    await mountAndWrite('direct');
    await mountAndWrite('fusermount');
    const before = descriptors();
    for (let i = 0; i < 5; i++) {
      await mountAndWrite('direct');
      await mountAndWrite('fusermount');
    }
    assert.equal(descriptors(), before);
  });

  it('carries data of every size whole, many requests at a time', async () => {
    await using mounted = await MountedExport.open(await memory());
    const { code, output } = await shell(
      `for size in 0 1 4095 4096 4097 131072 1048575 1048576 1048577 5000000; do
        (head -c $size /dev/urandom > f$size; cp f$size g$size; dd if=g$size of=h$size bs=1M conv=fsync status=none
         cmp f$size g$size && cmp f$size h$size && [ "$(stat -c %s h$size)" = $size ] || echo "$size differs") &
      done; wait; ls | wc -l`,
      mounted.directory,
    );
    assert.deepEqual({ code, output }, { code: 0, output: '30\n' });
    assert.deepEqual(mounted.log.lines, []);
  });

  it('is refused with what to do where it can not be', async () => {
    await using host = await temporaryDirectory();
    const file = join(host.path, 'file');
    await writeFile(file, '');
    await refused(join(host.path, 'none'), /none: no such directory$/);
    await refused(file, /file: not a directory$/);
    await refused(file, /file: not a directory$/, 'fusermount');
    const flags = { allowOther: true, readOnly: false, setuid: false, devices: false };
    const dead = await temporaryDirectory();
    (await mountDirectly(dead.path, 'dead', flags)).close();
    await refused(dead.path, /a dead mount is there; remove it with: fusermount3 -u \/tmp/);
    await unmountDirectly(dead.path);
    await dead[Symbol.asyncDispose]();
  });

  it('follows a symbolic link to its directory', async () => {
    await using host = await temporaryDirectory();
    const directory = join(host.path, 'link');
    await mkdir(join(host.path, 'real'));
    await symlink('real', directory);
    await using mounted = await MountedExport.open(await memory());
    const openSession = () => new Session(mounted.export);
    const second = await HostMount.open({ directory, source: 'x', log: mounted.log, openSession });
    assert.equal(second.directory, join(host.path, 'real'));
    assert.equal((await shell('echo through the link > f', directory)).code, 0);
    await second.unmount();
    assert.deepEqual(await shell('cat f', mounted.directory), { code: 0, output: 'through the link\n' });
  });
});
