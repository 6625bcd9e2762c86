import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Guest, type GuestOptions, type GuestShare } from '../../core/guest/index.js';
import { BackendRegistry, createLogger, Daemon, type ServedExport } from '../../core/plugins/index.js';
import { FrontEnd } from '../support/front-end.js';

/**
 * Seconds after which a test's guests are ended. Calls that wait for them then fail, with the last
 * lines of the console in the error.
 */
const LIFETIME_SECONDS = 900;

/** A daemon in this process, and real guests that have mounted its exports. */
export class DaemonWithGuests implements AsyncDisposable {
  readonly guests: readonly Guest[];
  readonly #daemon: Daemon;
  readonly #folder: string;
  readonly #first: FrontEnd | undefined;

  private constructor(guests: readonly Guest[], daemon: Daemon, folder: string, first: FrontEnd | undefined) {
    this.guests = guests;
    this.#daemon = daemon;
    this.#folder = folder;
    this.#first = first;
  }

  /**
   * Boots `times` guests, each with all the exports: the first at /mnt, another at /mnt/TAG.
   * @param hostTools runs commands with this machine's root directory as theirs, so that they have
   * its programs.
   * @param onThread connects another front-end to the first export before the guest. If there is a
   * queue thread, it then serves the guest's queue.
   */
  static async boot(
    exports: readonly Omit<ServedExport, 'socket'>[],
    {
      times = 1,
      hostTools = false,
      onThread = false,
      ...options
    }: { times?: number; hostTools?: boolean; onThread?: boolean } & Partial<GuestOptions> = {},
  ): Promise<DaemonWithGuests> {
    const folder = await mkdtemp(join(tmpdir(), 'virtiofs-kit-test-'));
    const served: ServedExport[] = exports.map((one, index) => ({
      ...one,
      socket: join(folder, `${index}.sock`),
    }));
    const shares: GuestShare[] = served.map(({ tag = 'virtiofs', socket }, index) => {
      return { tag, socket: socket!, mountPoint: index === 0 ? '/mnt' : `/mnt/${tag}` };
    });
    if (hostTools) {
      const socket = join(folder, 'host.sock');
      const backend = { type: 'passthrough', sharedDir: '/', cache: 'always', submounts: 'cross' };
      served.push({ tag: 'host', socket, backend, readOnly: true });
      shares.push({ tag: 'host', socket, mountPoint: '/' });
    }
    const log = createLogger({ level: 'error', format: 'text' });
    const daemon = await Daemon.start({ exports: served, log, registry: new BackendRegistry() });
    const first = onThread ? await FrontEnd.connect(served[0]!.socket!) : undefined;
    const signal = AbortSignal.timeout(LIFETIME_SECONDS * 1000);
    const boots = Array.from({ length: times }, () =>
      Guest.boot({ shares, rootTag: hostTools ? 'host' : undefined, signal, ...options }),
    );
    const results = await Promise.allSettled(boots);
    const guests = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
    const all = new DaemonWithGuests(guests, daemon, folder, first);
    for (const result of results) {
      if (result.status === 'rejected') {
        await all[Symbol.asyncDispose]();
        throw result.reason;
      }
    }
    return all;
  }

  /** The only guest, or the first. */
  get guest(): Guest {
    return this.guests[0]!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.guests.map((guest) => guest.shutdown()));
    this.#first?.close();
    await this.#daemon.close();
    await rm(this.#folder, { recursive: true, force: true });
  }
}
