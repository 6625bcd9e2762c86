import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { MetricsServer } from '../../../core/monitoring/index.js';
import { BackendRegistry, createLogger, Daemon } from '../../../core/plugins/index.js';
import { root } from '../../support/documents.js';
import { FrontEnd } from '../../support/front-end.js';
import { FuseClient, ROOT } from '../../support/fuse-client.js';
import { fuseTransport, temporaryFolder } from '../../support/vhost-user.js';

interface Panel {
  readonly title: string;
  readonly targets: readonly { readonly expr: string }[];
}

/** Words of PromQL in the dashboard that are no names of figures or labels. */
const WORDS = new Set(
  'sum by rate topk time increase histogram_quantile or vector le h export opcode errno EIO __rate_interval'.split(
    ' ',
  ),
);

test('the dashboard asks for figures and labels that a scrape has', async (t) => {
  const folder = temporaryFolder(t);
  const log = createLogger({ level: 'silent', format: 'json' });
  const socket = join(folder, 'socket');
  const exports = [{ tag: 'data', socket, backend: { type: 'memfs' } }];
  const daemon = await Daemon.start({ exports, log, registry: new BackendRegistry() });
  t.after(() => daemon.close());
  const metrics = join(folder, 'metrics');
  const server = await MetricsServer.start(metrics, () => daemon.figures(), log);
  t.after(() => server.close());
  const frontEnd = await FrontEnd.connect(socket);
  t.after(() => frontEnd.close());
  const fuse = new FuseClient(fuseTransport(frontEnd));
  await fuse.init();
  // As many as it takes until some are timed, and some fail.
  for (let i = 0; i < 64; i++) await fuse.lookup(ROOT, 'none').catch(() => undefined);
  const scrape = await new Promise<string>((resolve, reject) => {
    get({ socketPath: metrics, path: '/metrics', agent: false }, (response) => {
      resolve(text(response));
    }).once('error', reject);
  });
  const names = new Set([...scrape.matchAll(/^([a-z_0-9]+)[ {]/gm)].map(([, name]) => name!));
  const labels = new Set([...scrape.matchAll(/([a-z]+)="/g)].map(([, name]) => name!));

  const file = readFileSync(join(root, 'docs', 'grafana-dashboard.json'), 'utf8');
  const { panels } = JSON.parse(file) as { readonly panels: readonly Panel[] };
  const asked = panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
  assert.ok(asked.length > 20);
  for (const expr of asked) {
    for (const [word] of expr.replaceAll(/\$(?!__)\w+/g, '').matchAll(/[a-z_]\w*/gi)) {
      assert.ok(WORDS.has(word) || names.has(word), `${word} in ${expr}`);
    }
    for (const [, label] of expr.matchAll(/(\w+)=~?"/g)) assert.ok(labels.has(label!), `${label} in ${expr}`);
    for (const [, list] of expr.matchAll(/by \(([^)]*)\)/g))
      for (const label of list!.split(',')) assert.ok(labels.has(label.trim()), `${label} in ${expr}`);
  }
  // What the daemon counts for all exports is shown.
  for (const name of names) {
    if (!name.startsWith('virtiofs_kit_') || name.startsWith('virtiofs_kit_memfs_')) continue;
    assert.ok(file.includes(name), `${name} is not shown`);
  }
});
