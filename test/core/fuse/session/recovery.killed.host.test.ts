import assert from 'node:assert/strict';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type RunningDaemon, startDaemon } from '../../../support/daemons.js';
import { Mark, type Stage, STAGES } from '../../../support/dying-backend.js';
import { FuseClient, ROOT } from '../../../support/fuse-client.js';
import { connectKept, enginesOf, keeping } from '../../../support/keepers.js';
import { BESIDE, type Case, cases, repeatable, type Seen } from '../../../support/opcode-cases.js';
import { modules, program } from '../../../support/program.js';

const plugin = fileURLToPath(new URL('../../../support/dying-backend.js', import.meta.url));

/** Every stage of every request is tried, and not one of each. */
const hasAll = process.env['VIRTIOFS_KIT_MOMENTS'] === 'all';

/** What no method of this backend does: the engine does it, or passthrough has nothing to do. */
const WITHOUT_METHOD = new Set(['FLUSH']);

const CHANGES: readonly Stage[] = ['before the change', 'after the change'];

/** A guest whose engine can be told to die. */
class Guest {
  readonly #running: RunningDaemon;
  readonly #client: FuseClient;
  readonly #seen: Seen;

  private constructor(running: RunningDaemon, client: FuseClient) {
    this.#running = running;
    this.#client = client;
    const at = (name: string): string => join(running.directory, name);
    this.#seen = {
      names: () =>
        readdirSync(running.directory)
          .filter((name) => name !== BESIDE)
          .sort()
          .join(' '),
      content: (name) => readFileSync(at(name), 'utf8'),
      target: (name) => readlinkSync(at(name)),
      nlink: (name) => lstatSync(at(name)).nlink,
      mode: (name) => lstatSync(at(name)).mode & 0o777,
      flags: () => Number(readFileSync(this.#mark(Mark.FLAGS), 'utf8')),
    };
  }

  static async start(t: TestContext): Promise<Guest> {
    const running = startDaemon(t, {
      ...keeping([]),
      command: (directory, socket) => {
        mkdirSync(`${directory}.marks`);
        const backend = ['--backend', plugin, '--share', directory, '--marks', `${directory}.marks`];
        const words = keeping(backend, '--confine', 'none').command(directory, socket);
        return words.map((word) => (word === program ? modules : word));
      },
    });
    const { fuse } = await connectKept(t, running, { requestQueues: 2 });
    return new Guest(running, fuse);
  }

  #mark(name: string): string {
    return `${this.#running.directory}.marks/${name}`;
  }

  /**
   * Has the engine die at a stage of a request, in a session of its own.
   * @param beside where the change of a request of another queue is held meanwhile.
   * @returns how often the request's change was made.
   */
  async survive({ method, prepare, request, check }: Case, stage: Stage, beside?: Stage): Promise<number> {
    const client = this.#client;
    while (enginesOf(this.#running).length < 2) await sleep(10);
    await client.init();
    const known = (await prepare?.(client)) ?? { nodeid: 0n, fh: 0n };
    let other: Promise<unknown> | undefined;
    if (beside !== undefined) {
      writeFileSync(this.#mark(Mark.BESIDE), beside);
      const { caller } = client;
      client.caller = { ...caller, queue: 2 };
      other = client.mknod(ROOT, BESIDE, 0o010600);
      client.caller = caller;
      while (!existsSync(this.#mark(Mark.HELD))) await sleep(2);
      rmSync(this.#mark(Mark.HELD));
    }
    writeFileSync(this.#mark(Mark.MADE), '');
    writeFileSync(this.#mark(Mark.ORDER), stage);
    await request(client, known);
    await other;
    assert.equal(existsSync(this.#mark(Mark.ORDER)), false, `no engine has died ${stage}`);
    const made = readFileSync(this.#mark(Mark.MADE), 'utf8').split('\n');
    assert.equal(existsSync(join(this.#running.directory, BESIDE)), beside !== undefined);
    await check(client, this.#seen, known);
    await this.#empty();
    return made.filter((name) => name === method).length;
  }

  /** Removes all that there is, and ends the session. */
  async #empty(): Promise<void> {
    const client = this.#client;
    const { fh } = await client.opendir(ROOT);
    const entries = await client.readdir(ROOT, fh);
    for (const { name, type } of entries.filter((entry) => entry.name !== '.' && entry.name !== '..'))
      await (type === 4 ? client.rmdir(ROOT, name) : client.unlink(ROOT, name));
    await client.destroy();
  }
}

/** Stages in which the process is tried that carries a request out. */
function stagesOf(name: string, { method }: Case): readonly Stage[] {
  const hasMethod = method !== undefined && !WITHOUT_METHOD.has(name);
  return STAGES.filter((stage) => hasMethod || !CHANGES.includes(stage));
}

/** Requests of the guest as a whole: nothing of it is under way beside them. */
const ALONE = new Set(['INIT', 'DESTROY']);

describe('a request whose engine is killed is carried out once', () => {
  for (const queues of ['one queue', 'two queues']) {
    test(`in guests with requests of ${queues}`, async (t) => {
      const guest = await Guest.start(t);
      let turn = queues === 'one queue' ? 0 : 3;
      for (const [name, one] of Object.entries({ ...cases, ...repeatable })) {
        if (queues === 'two queues' && (ALONE.has(name) || (!hasAll && !(name in cases)))) continue;
        const stages = stagesOf(name, one);
        const tried = hasAll ? stages : [stages[turn % stages.length]!];
        for (const stage of tried) {
          const beside = queues === 'one queue' ? undefined : CHANGES[turn % 2]!;
          const made = await guest.survive(one, stage, beside);
          t.diagnostic(`${name}, ${stage}`);
          if (name in cases) assert.equal(made, 1, `${name}, ${stage}`);
          // The keeper waits before it follows up engines that end at once, again and again.
          await sleep(600);
        }
        turn += 1;
      }
    });
  }
});
