import assert from 'node:assert/strict';
import { test } from 'node:test';
import { IdMap } from '../../../backends/passthrough/maps/id-map.js';
import { XattrMap } from '../../../backends/passthrough/maps/xattr-map.js';
import { UsageError } from '../../../core/backend/index.js';

const refused = { code: 'EPERM' };

test('ids without a rule stay as they are', () => {
  const map = new IdMap([], 'translate-uid');
  assert.equal(map.active, false);
  assert.equal(map.toHost(7), 7);
  assert.equal(map.toGuest(0xfffffffe), 0xfffffffe);
});

test('map shifts ids both ways, guest and host one way each', () => {
  const map = new IdMap(['map:0:100000:65536', 'host:5:70000:1', 'guest:70000:9:2'], 'translate-uid');
  assert.equal(map.toHost(1000), 101000);
  assert.equal(map.toGuest(101000), 1000);
  assert.equal(map.toHost(70001), 10);
  assert.equal(map.toGuest(10), 10);
  assert.equal(map.toGuest(5), 70000);
  assert.equal(map.toHost(65536), 65536);
});

test('squash makes one id of many, and forbid-guest refuses ids', () => {
  const map = new IdMap(
    ['squash-guest:0:1001:1000', 'forbid-guest:2000:10', 'squash-host:0:4:10'],
    'translate-gid',
  );
  assert.equal(map.toHost(0), 1001);
  assert.equal(map.toHost(999), 1001);
  assert.equal(map.toHost(1000), 1000);
  assert.equal(map.toGuest(9), 4);
  assert.throws(() => map.toHost(2009), refused);
  assert.equal(map.toHost(2010), 2010);
});

test('the whole range of ids can be squashed, as unprivileged set-ups do', () => {
  const map = new IdMap(['squash-guest:0:1001:4294967295'], 'translate-uid');
  assert.equal(map.toHost(0xfffffffe), 1001);
});

for (const rule of [
  '',
  'map',
  'map:0:1',
  'map:0:1:2:3',
  'map:a:0:1',
  'map:-1:0:1',
  'mop:0:0:1',
  'map:0:0:0',
  'forbid-guest:1:2:3',
  'map:4294967295:0:2',
]) {
  test(`the translation rule «${rule}» is refused with its option's name`, () => {
    assert.throws(
      () => new IdMap([rule], 'translate-uid'),
      (error) => {
        assert.ok(error instanceof UsageError);
        assert.match(error.message, /^--translate-uid /);
        return true;
      },
    );
  });
}

test('translation rules whose sources overlap are refused', () => {
  assert.throws(() => new IdMap(['map:0:100:10', 'squash-guest:9:1:1'], 'translate-uid'), UsageError);
});

test('xattrmap: a map of everything prefixes all names and hides the rest of the host', () => {
  const map = new XattrMap(':map::user.virtiofs.:');
  assert.equal(map.toHost('security.selinux'), 'user.virtiofs.security.selinux');
  assert.equal(map.toGuest('user.virtiofs.security.selinux'), 'security.selinux');
  assert.equal(map.toGuest('security.selinux'), undefined);
});

test('xattrmap: a map of one prefix leaves other names, and bars the way around it', () => {
  const map = new XattrMap('/map/trusted./user.virtiofs./');
  assert.equal(map.toHost('trusted.x'), 'user.virtiofs.trusted.x');
  assert.equal(map.toGuest('user.virtiofs.trusted.x'), 'trusted.x');
  assert.equal(map.toGuest('trusted.x'), undefined);
  assert.throws(() => map.toHost('user.virtiofs.trusted.x'), refused);
  assert.equal(map.toHost('user.y'), 'user.y');
  assert.equal(map.toGuest('user.y'), 'user.y');
});

test('xattrmap: rules on lines of their own, the first that matches decides', () => {
  const map = new XattrMap(`
    /prefix/all/trusted./user.virtiofs./
    /bad/server//trusted./
    /bad/client/user.virtiofs.//
    /unsupported/client/security.selinux//
    /ok/all///
  `);
  assert.equal(map.toHost('trusted.a'), 'user.virtiofs.trusted.a');
  assert.throws(() => map.toHost('user.virtiofs.q'), refused);
  assert.throws(() => map.toHost('security.selinux'), { code: 'EOPNOTSUPP' });
  assert.equal(map.toHost('security.other'), 'security.other');
});

test('xattrmap: a name that no rule matches is refused, and hidden', () => {
  const map = new XattrMap(':ok:client:user.::');
  assert.equal(map.toHost('user.a'), 'user.a');
  assert.throws(() => map.toHost('trusted.a'), refused);
  assert.equal(map.toGuest('user.a'), undefined);
});

for (const rules of ['', ':ok:all::', ':nope:all:::', ':ok:nobody:::', ':map::a:', ':map::a::ok:all:::']) {
  const valid = rules === ':map::a:';
  test(`xattrmap: «${rules}» is ${valid ? 'valid' : 'refused'}`, () => {
    if (valid) assert.equal(new XattrMap(rules).toHost('x'), 'ax');
    else assert.throws(() => new XattrMap(rules), UsageError);
  });
}
