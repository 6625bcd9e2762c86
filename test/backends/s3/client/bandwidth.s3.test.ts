import assert from 'node:assert/strict';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { HttpProxy } from '../http-proxy.js';
import { context, Mount, pattern, removeFolders, TestBucket } from '../support.js';

/** The limit of the tests in bytes a second, and what is moved under it. */
const LIMIT = 1_000_000;
const SIZE = 2_000_000;
/** Milliseconds of a window in which bytes are counted. */
const WINDOW_MS = 500;
/**
 * Bytes that may pass in a window beyond the limit: what was saved, and what each connection has
 * taken when it begins to wait.
 */
const SLACK = 700_000;

/** Bytes that have passed at a moment, in milliseconds. */
interface Passed {
  readonly at: number;
  readonly bytes: number;
}

/** Forwards connections and notes when how many bytes went up. */
class Meter {
  readonly up: Passed[] = [];
  readonly endpoint: string;
  readonly #server: Server;

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on('connection', (socket) => {
      const onward = connect(port, '127.0.0.1');
      socket.on('data', ({ length }) => this.up.push({ at: performance.now(), bytes: length }));
      socket.pipe(onward).pipe(socket);
      for (const one of [socket, onward]) one.on('error', () => undefined);
      socket.on('close', () => onward.destroy());
      onward.on('close', () => socket.destroy());
    });
  }

  static async start(endpoint: string): Promise<Meter> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new Meter(server, Number(new URL(endpoint).port));
  }

  close(): void {
    this.#server.close();
  }
}

/** Notes what comes down while something runs. */
async function comingDown(mount: Mount, run: () => Promise<void>): Promise<Passed[]> {
  const { metrics } = mount.backend.mounted.services;
  const notes: Passed[] = [];
  let before = metrics.bytesDown;
  const note = (): void => {
    if (metrics.bytesDown === before) return;
    notes.push({ at: performance.now(), bytes: metrics.bytesDown - before });
    before = metrics.bytesDown;
  };
  const timer = setInterval(note, 5);
  try {
    await run();
    note();
  } finally {
    clearInterval(timer);
  }
  return notes;
}

/** Passes where no window, each of which begins with a note, has more than the limit allows. */
function keepsLimit(notes: readonly Passed[]): void {
  for (const [i, { at }] of notes.entries()) {
    const within = notes.slice(i).filter((note) => note.at < at + WINDOW_MS);
    const bytes = sum(within);
    assert.ok(bytes <= (LIMIT * WINDOW_MS) / 1000 + SLACK, `${bytes} bytes in ${WINDOW_MS} ms`);
  }
}

const sum = (notes: readonly Passed[]): number => notes.reduce((total, { bytes }) => total + bytes, 0);

describe('a mount with a limit on its bandwidth', () => {
  let bucket: TestBucket;
  let meter: Meter;
  before(async () => {
    bucket = await TestBucket.create();
    meter = await Meter.start(bucket.endpoint);
  });
  after(async () => {
    meter.close();
    await removeFolders();
  });

  async function open(options: Record<string, unknown>): Promise<Mount> {
    const mount = await Mount.open(bucket, { endpoint: meter.endpoint, diskCache: 0, ...options });
    // The SDK makes the first requests of each kind.
    await mount.put('first', 'x');
    meter.up.length = 0;
    return mount;
  }

  it('sends no more than that in any window, of several files at once, and all of it', async () => {
    const mount = await open({ uploadLimit: LIMIT });
    const bytes = pattern(SIZE / 4);
    const names = ['a', 'b', 'c', 'd'].map((name) => `up-${name}`);
    await Promise.all(names.map((name) => mount.put(name, bytes)));
    assert.ok(sum(meter.up) >= SIZE);
    keepsLimit(meter.up);
    for (const name of names) assert.ok((await bucket.get(name)).equals(bytes));
    await mount.close();
  });

  it('gets no more than that in any window, and the right bytes', async () => {
    const bytes = pattern(SIZE);
    await bucket.put('down', bytes);
    const mount = await open({ downloadLimit: LIMIT });
    const notes = await comingDown(mount, async () => assert.ok((await mount.content('down')).equals(bytes)));
    assert.ok(sum(notes) >= SIZE);
    keepsLimit(notes);
    await mount.close();
  });

  it('asks for names and attributes, and reads, while data waits to go up', async () => {
    await bucket.put('small', 'content');
    const mount = await open({ uploadLimit: '128k', metadataTtl: 0, openTtl: 0 });
    let isUp = false;
    const uploading = mount.put('slow', pattern(SIZE / 2)).then(() => (isUp = true));
    assert.notEqual(await mount.node('small'), undefined);
    assert.ok((await mount.names('')).includes('small'));
    assert.equal(`${await mount.content('small')}`, 'content');
    await mount.backend.mkdir(mount.root, 'directory', 0o755, context);
    assert.equal(isUp, false);
    await uploading;
    await mount.close();
  });

  it('gives no request up for the time that the limit takes', async () => {
    const mount = await open({ uploadLimit: '128k', downloadLimit: '128k', requestTimeout: 8 });
    const { metrics } = mount.backend.mounted.services;
    const before = metrics.passingFailures;
    const bytes = pattern(SIZE / 2);
    await Promise.all([mount.put('long-a', bytes), mount.put('long-b', bytes)]);
    await bucket.put('other', bytes);
    assert.ok((await mount.content('other')).equals(bytes));
    assert.equal(metrics.passingFailures, before);
    await mount.close();
  });

  it('is kept to by way of a proxy', async () => {
    const proxy = await HttpProxy.start();
    const environment = { ...process.env };
    process.env['HTTP_PROXY'] = proxy.url;
    try {
      const mount = await open({ uploadLimit: LIMIT, downloadLimit: LIMIT });
      const bytes = pattern(SIZE / 2);
      await mount.put('proxied', bytes);
      keepsLimit(meter.up);
      assert.ok(sum(meter.up) >= SIZE / 2);
      await bucket.put('proxied-2', bytes);
      const notes = await comingDown(mount, async () =>
        assert.ok((await mount.content('proxied-2')).equals(bytes)),
      );
      keepsLimit(notes);
      assert.ok(sum(notes) >= SIZE / 2);
      await mount.close();
    } finally {
      delete process.env['HTTP_PROXY'];
      Object.assign(process.env, environment);
      await proxy.close();
    }
  });
});
