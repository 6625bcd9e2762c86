import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { it } from 'node:test';
import type { Backend } from '../../core/backend/index.js';
import { checkBackend } from '../../core/contract/index.js';
import { BackendRegistry } from '../../core/plugins/index.js';
import { root } from '../support/documents.js';
import { keepingLog, temporaryDirectory } from '../support/host-mount.js';
import { logging } from './own-wrappers/logging.js';
import { perSecond, throttling } from './own-wrappers/throttling.js';

/*
 * Wrappers as an author writes them, with nothing but docs/writing-a-backend.md. That nothing
 * passes them by is counted in test/core/backend/wrap.host.test.ts.
 */

const LINES_MAX = 40;

const own: Readonly<Record<string, (inner: Backend) => Backend>> = {
  logging: (inner) => logging(inner, () => undefined),
  throttling: (inner) => throttling(inner, perSecond(2 ** 40)),
};

for (const [name, wrapped] of Object.entries(own)) {
  it(`a wrapper for ${name} over passthrough has fewer than ${LINES_MAX} lines and keeps the contract`, async () => {
    const source = readFileSync(join(root, `test/contract/own-wrappers/${name}.ts`), 'utf8');
    assert.ok(source.split('\n').length < LINES_MAX);
    await using shared = await temporaryDirectory();
    const log = keepingLog();
    const registry = new BackendRegistry();
    const { results } = await checkBackend({
      create: async () =>
        wrapped(await registry.create({ type: 'passthrough', sharedDir: shared.path }, { log })),
      log,
    });
    assert.deepEqual(
      results
        .filter(({ outcome }) => outcome === 'failed')
        .map(({ name: rule, reason }) => `${rule}: ${reason}`),
      [],
    );
    // What would move data past `read` and `write` is not offered. The host's file system may
    // refuse an attribute of 64 KiB.
    const lacks = name === 'throttling' ? /copied|hole|64 KiB/i : /64 KiB/;
    const skipped = results.filter(({ outcome, name: rule }) => outcome === 'skipped' && !lacks.test(rule));
    assert.deepEqual(
      skipped.map(({ name: rule }) => rule),
      [],
    );
  });
}
