import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { FrontEnd } from '../support/front-end.js';
import { FuseClient, Op, ROOT } from '../support/fuse-client.js';
import { fuseTransport } from '../support/vhost-user.js';
import { Random } from '../support/random.js';

const FILE_BYTES = 65_536;
/** The low byte of the opcode in a request's header. */
const OPCODE_AT = 4;

/** How long requests took, in milliseconds. */
export interface Latency {
  readonly requests: number;
  readonly median: number;
  /** What 99 of 100 did not exceed. */
  readonly p99: number;
  readonly worst: number;
  /** What 99 of 100 FSYNCs did not exceed. They wait for storage; `worst` counts them. */
  readonly sync: number;
}

/** An honest guest beside the attackers: it checks each byte, and measures each request. */
export class Canary {
  readonly #frontEnd: FrontEnd;
  readonly #client: FuseClient;
  readonly #random: Random;
  #times: number[] = [];
  #syncTimes: number[] = [];
  #round = 0;

  private constructor(frontEnd: FrontEnd, seed: number) {
    this.#frontEnd = frontEnd;
    this.#random = new Random(seed);
    const { request } = fuseTransport(frontEnd);
    this.#client = new FuseClient({
      request: async (queue, input, room) => {
        const start = performance.now();
        const reply = await request(queue, input, room);
        const isSync = input[OPCODE_AT] === Op.FSYNC;
        (isSync ? this.#syncTimes : this.#times).push(performance.now() - start);
        return reply;
      },
    });
  }

  static async connect(socket: string, seed: number): Promise<Canary> {
    const canary = new Canary(await FrontEnd.connect(socket), seed);
    await canary.#client.init();
    return canary;
  }

  /**
   * Writes and reads files until `isOver`.
   * @param paceMs how long it rests after each.
   * @throws AssertionError if a byte or a name is not what it was.
   */
  async work(isOver: () => boolean, paceMs = 0): Promise<Latency> {
    this.#times = [];
    this.#syncTimes = [];
    const kept = this.#random.bytes(FILE_BYTES);
    const old = await this.#make('kept', kept);
    while (!isOver()) {
      await this.#file(`file-${(this.#round += 1)}`);
      await this.#holds(old, kept);
      if (paceMs > 0) await sleep(paceMs);
    }
    await this.#client.unlink(ROOT, 'kept');
    await this.#client.release(old.id, old.fh);
    const [times, syncTimes] = [this.#times, this.#syncTimes].map((all) => all.sort((a, b) => a - b));
    return {
      requests: times!.length,
      median: times![times!.length >> 1]!,
      p99: times![Math.floor(times!.length * 0.99)]!,
      worst: Math.max(times!.at(-1)!, syncTimes!.at(-1) ?? 0),
      sync: syncTimes![Math.floor(syncTimes!.length * 0.99)] ?? 0,
    };
  }

  close(): void {
    this.#frontEnd.close();
  }

  async #make(name: string, data: Uint8Array): Promise<{ id: bigint; fh: bigint }> {
    const { entry, open } = await this.#client.create(ROOT, name, 0o644);
    const file = { id: entry.nodeid, fh: open.fh };
    assert.equal(await this.#client.write(file.id, file.fh, 0, data), data.length);
    return file;
  }

  async #holds({ id, fh }: { id: bigint; fh: bigint }, data: Uint8Array): Promise<void> {
    assert.ok(Buffer.from(data).equals(await this.#client.read(id, fh, 0, FILE_BYTES)), "the canary's data");
  }

  async #file(name: string): Promise<void> {
    const client = this.#client;
    const data = this.#random.bytes(FILE_BYTES);
    const file = await this.#make(name, data);
    await client.fsync(file.id, file.fh);
    await this.#holds(file, data);
    assert.equal((await client.getattr(file.id)).size, FILE_BYTES);
    await client.rename(ROOT, name, ROOT, 'renamed');
    assert.equal((await client.lookup(ROOT, 'renamed')).nodeid, file.id);
    assert.ok((await client.list(ROOT)).includes('renamed'));
    await client.unlink(ROOT, 'renamed');
    await client.release(file.id, file.fh);
    await client.forget(file.id, 2n);
  }
}
