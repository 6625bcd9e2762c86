import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Backend, CachePolicy } from '../../../../core/backend/index.js';
import { InitFlag, InitFlag2, SEEK_HOLE } from '../../../../core/fuse/wire/abi.js';
import {
  negotiate,
  type Negotiated,
  type NegotiatingExport,
} from '../../../../core/fuse/session/negotiation.js';
import { defaultCachePolicy } from '../../../../core/state/index.js';
import { engine } from '../../../support/engine.js';
import { RequestBytes, FuseError, Op, ROOT, usualInitFlags } from '../../../support/fuse-client.js';
import { TinyBackend } from '../../../support/tiny-backend.js';

const everything = { minor: 46, flags: -1, flags2: -1, maxReadahead: 131072 };
const bare: Backend = {
  mount: () => ({}),
  lookup: () => undefined,
  getattr: () => ({ mode: 0o40755 }),
};

function exported(backend: Backend, cache: Partial<CachePolicy> = {}): NegotiatingExport {
  return { backend, cache: { ...defaultCachePolicy, ...cache }, localLocks: false, findsByHandle: false };
}

function settle(backend: Backend, cache: Partial<CachePolicy> = {}): Negotiated {
  return negotiate(everything, exported(backend, cache));
}

describe('INIT', () => {
  it('agrees to nothing that no method of the backend carries out', () => {
    const { flags, flags2 } = settle(bare);
    for (const flag of [
      InitFlag.ATOMIC_O_TRUNC,
      InitFlag.DO_READDIRPLUS,
      InitFlag.SETXATTR_EXT,
      InitFlag.POSIX_ACL,
      InitFlag.DONT_MASK,
      InitFlag.HANDLE_KILLPRIV,
      InitFlag.HANDLE_KILLPRIV_V2,
      InitFlag.SUBMOUNTS,
      InitFlag.WRITEBACK_CACHE,
      InitFlag.EXPORT_SUPPORT,
      InitFlag.MAP_ALIGNMENT,
      InitFlag.HAS_IOCTL_DIR,
      InitFlag.NO_OPEN_SUPPORT,
    ]) {
      assert.equal(flags & flag, 0, `flag ${flag}`);
    }
    for (const flag of [
      InitFlag2.SECURITY_CTX,
      InitFlag2.HAS_INODE_DAX,
      InitFlag2.PASSTHROUGH,
      InitFlag2.HAS_RESEND,
    ]) {
      assert.equal(flags2 & flag, 0, `flag ${flag} of the second word`);
    }
  });

  it('agrees to no locks where guests keep theirs to themselves', () => {
    const { flags } = negotiate(everything, { ...exported(bare), localLocks: true });
    assert.equal(flags & (InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS), 0);
    assert.notEqual(flags & InitFlag.BIG_WRITES, 0);
  });

  it('agrees to locks else, for the shared layer has them', () => {
    const { flags } = settle(bare);
    assert.notEqual(flags & InitFlag.POSIX_LOCKS, 0);
    assert.notEqual(flags & InitFlag.FLOCK_LOCKS, 0);
  });

  it('agrees to handles of forgotten nodes where such nodes are remembered', () => {
    const { flags } = negotiate(everything, { ...exported(bare), findsByHandle: true });
    assert.notEqual(flags & InitFlag.EXPORT_SUPPORT, 0);
  });

  it('agrees to nothing that the guest does not offer', () => {
    const settled = negotiate({ ...everything, flags: 0, flags2: 0 }, exported(new TinyBackend()));
    assert.equal(settled.flags, 0);
    assert.equal(settled.flags2, 0);
    assert.equal(settled.maxPages, 32);
    assert.equal(settled.maxWrite, 128 * 1024);
  });

  it('does not read the second flag word without FUSE_INIT_EXT', () => {
    const flags = -1 & ~InitFlag.INIT_EXT;
    assert.equal(negotiate({ ...everything, flags }, exported(new TinyBackend())).flags2, 0);
  });

  it('follows the semantics that a backend declares', () => {
    const semantics = { posixAcl: true, killPriv: true, securityContext: true, submounts: true };
    const { flags, flags2 } = settle({ ...bare, semantics });
    for (const flag of [
      InitFlag.POSIX_ACL,
      InitFlag.DONT_MASK,
      InitFlag.HANDLE_KILLPRIV_V2,
      InitFlag.SUBMOUNTS,
    ]) {
      assert.notEqual(flags & flag, 0, `flag ${flag}`);
    }
    assert.notEqual(flags2 & InitFlag2.SECURITY_CTX, 0);
  });

  it('has no ACLs with a guest that does not know all that they need', () => {
    const backend = { ...bare, semantics: { posixAcl: true } };
    for (const part of [InitFlag.POSIX_ACL, InitFlag.DONT_MASK, InitFlag.SETXATTR_EXT]) {
      const { flags } = negotiate({ ...everything, flags: everything.flags & ~part }, exported(backend));
      assert.equal(flags & InitFlag.POSIX_ACL, 0);
    }
    assert.notEqual(negotiate(everything, exported(backend)).flags & InitFlag.POSIX_ACL, 0);
  });

  it('uses write-back only where the policy says so and the backend can take what it brings', () => {
    assert.equal(settle(bare, { writeback: true }).flags & InitFlag.WRITEBACK_CACHE, 0);
    const tiny = new TinyBackend();
    assert.notEqual(settle(tiny, { writeback: true }).flags & InitFlag.WRITEBACK_CACHE, 0);
    assert.equal(settle(tiny, { writeback: true, data: 'never' }).flags & InitFlag.WRITEBACK_CACHE, 0);
    assert.notEqual(settle(tiny).flags & InitFlag.AUTO_INVAL_DATA, 0);
    assert.equal(settle(tiny, { data: 'always' }).flags & InitFlag.AUTO_INVAL_DATA, 0);
  });

  it('speaks the smaller of both minor versions', async () => {
    for (const [offered, spoken] of [
      [31, 31],
      [38, 38],
      [45, 45],
      [46, 46],
      [99, 46],
    ] as const) {
      const { client } = (await engine(new TinyBackend())).guest();
      const reply = await client.init(usualInitFlags, offered);
      assert.equal(reply.major, 7);
      assert.equal(reply.minor, spoken);
      assert.equal(reply.maxWrite, 1024 * 1024);
      assert.equal(reply.timeGran, 1);
    }
  });

  it('refuses guests that do not know what the backend requires', async () => {
    const required = ['posixAcl', 'securityContext'] as const;
    const semantics = { posixAcl: true, securityContext: true, required };
    const { guest } = await engine(Object.assign(new TinyBackend(), { semantics }));
    const all = BigInt(InitFlag.POSIX_ACL | InitFlag.DONT_MASK | InitFlag.SETXATTR_EXT);
    const acl = BigInt.asUintN(32, all);
    const label = BigInt(InitFlag2.SECURITY_CTX) << 32n;
    const neither = (usualInitFlags | BigInt(InitFlag.INIT_EXT)) & ~(acl | label);
    const parts = [InitFlag.POSIX_ACL, InitFlag.DONT_MASK, InitFlag.SETXATTR_EXT].map(
      (part) => neither | label | (acl & ~BigInt(part)),
    );
    for (const offered of [neither, neither | acl, neither | label, ...parts]) {
      const { client, session } = guest();
      await assert.rejects(client.init(offered), (error) => error instanceof FuseError && error.errno === 71);
      assert.equal(session.negotiated, undefined);
    }
    await guest().client.init(neither | acl | label);
    const off = { ...semantics, posixAcl: false, securityContext: false };
    const { guest: other } = await engine(Object.assign(new TinyBackend(), { semantics: off }));
    await other().client.init(neither);
  });

  it('refuses protocols before 7.31, and answers a newer major version with its own', async () => {
    const { guest } = await engine(new TinyBackend());
    const { client, session } = guest();
    await assert.rejects(
      client.init(usualInitFlags, 30),
      (error) => error instanceof FuseError && error.errno === 71,
    );
    await assert.rejects(client.init(usualInitFlags, 46, 6), FuseError);
    assert.equal((await client.init(usualInitFlags, 0, 8)).major, 7);
    assert.equal(session.negotiated, undefined);
    assert.equal((await client.init()).minor, 38);
  });

  it('accepts the 16 bytes that guests before 7.36 send', async () => {
    const { client, session } = (await engine(new TinyBackend())).guest();
    const offer = new RequestBytes()
      .u32(7)
      .u32(35)
      .u32(4096)
      .u32(1 << 22);
    await client.call(Op.INIT, 0n, offer.bytes(), 64);
    assert.deepEqual(session.negotiated, {
      minor: 35,
      flags: 1 << 22,
      flags2: 0,
      maxReadahead: 4096,
      maxWrite: 1024 * 1024,
      maxPages: 256,
    });
  });

  it('refuses a guest of the other byte order', async () => {
    const { client } = (await engine(new TinyBackend())).guest();
    await assert.rejects(
      client.call(436_207_616, 0n, new Uint8Array(64), 64),
      (error) => error instanceof FuseError && error.errno === 71,
    );
  });

  it('comes first: nothing else is served before it', async () => {
    const { client } = (await engine(new TinyBackend())).guest();
    await assert.rejects(client.getattr(ROOT), (error) => error instanceof FuseError && error.errno === 5);
    await client.forget(ROOT);
  });

  it('for a second time releases everything that the guest had', async () => {
    const tiny = new TinyBackend();
    const { guest, export: shared } = await engine(tiny);
    const { client, session } = guest();
    await client.init();
    const { entry, open } = await client.create(ROOT, 'file');
    await client.opendir(ROOT);
    await client.setlk(entry.nodeid, open.fh, 7n, { start: 0n, end: 9n, type: 1, pid: 1 });
    assert.equal(shared.locks.counts.locks, 1);
    await client.init();
    assert.equal(session.handles.size, 0);
    assert.equal(shared.locks.counts.locks, 0);
    assert.equal(shared.nodes.size, 1);
    assert.equal(tiny.openFiles.size, 0);
    assert.equal(tiny.known.size, 0);
    await assert.rejects(
      client.getattr(entry.nodeid),
      (error) => error instanceof FuseError && error.errno === 116,
    );
    assert.equal((await client.lookup(ROOT, 'file')).nodeid, entry.nodeid);
  });
});

describe('LSEEK', () => {
  it('is left to a guest that caches writes, for it asks before it has sent them', async () => {
    for (const writeback of [false, true]) {
      const { guest } = await engine(new TinyBackend(), { cache: { writeback } });
      const { client } = guest();
      await client.init(usualInitFlags | BigInt(InitFlag.WRITEBACK_CACHE));
      const { entry, open } = await client.create(ROOT, 'file', 0o644);
      await client.write(entry.nodeid, open.fh, 0, Buffer.from('data'));
      const answer = client.lseek(entry.nodeid, open.fh, 0, SEEK_HOLE);
      if (writeback)
        await assert.rejects(answer, (error) => error instanceof FuseError && error.errno === 38);
      else assert.equal(await answer, 4);
    }
  });
});
