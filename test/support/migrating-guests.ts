import assert from 'node:assert/strict';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { BackendRegistry, Daemon, type ServedExport } from '../../core/plugins/index.js';
import { MemoryLog } from './engine.js';
import { FrontEnd } from './front-end.js';
import { FuseClient } from './fuse-client.js';
import { loadState, saveState, startQueues, stopQueues } from './migration.js';
import { fuseTransport, temporaryFolder } from './vhost-user.js';

type Settings = Omit<ServedExport, 'socket'>;

/** One guest on a daemon of its own. */
export interface Host {
  readonly socket: string;
  readonly frontEnd: FrontEnd;
  readonly fuse: FuseClient;
  readonly log: MemoryLog;
  /** One more guest of the export. */
  another(): Promise<FuseClient>;
}

export async function host(t: TestContext, settings: Settings): Promise<Host> {
  const socket = join(temporaryFolder(t), 'socket');
  const log = new MemoryLog();
  const daemon = await Daemon.start({
    exports: [{ locks: 'shared', ...settings, socket }],
    log,
    registry: new BackendRegistry(),
  });
  t.after(() => daemon.close());
  const connect = async () => {
    const frontEnd = await FrontEnd.connect(socket);
    t.after(() => frontEnd.close());
    return frontEnd;
  };
  const frontEnd = await connect();
  return {
    socket,
    frontEnd,
    fuse: new FuseClient(fuseTransport(frontEnd)),
    log,
    async another() {
      const fuse = new FuseClient(fuseTransport(await connect()));
      await fuse.init();
      return fuse;
    },
  };
}

/** Moves a guest as QEMU does. @returns whether the destination goes on with it. */
export async function migrate(from: Host, to: Host): Promise<boolean> {
  await stopQueues(from.frontEnd);
  const bases = await stopQueues(to.frontEnd);
  const state = await saveState(from.frontEnd);
  assert.ok(state !== undefined);
  const taken = await loadState(to.frontEnd, state);
  await startQueues(to.frontEnd, bases);
  return taken;
}

export const warnings = ({ log }: Host): string[] =>
  log.lines.filter(({ level }) => level !== 'info' && level !== 'debug').map(({ message }) => message);

export const warningFields = ({ log }: Host) => log.lines.findLast(({ level }) => level === 'warn')?.fields;
