import { setTimeout as sleep } from 'node:timers/promises';
import { SystemError, UnixConnection } from '../../core/system/index.js';
import { FrontEndError } from '../../core/vhost-user/index.js';
import { FrontEnd } from '../support/front-end.js';
import { floods, groundOf } from '../support/floods.js';
import { FuseClient, FuseError } from '../support/fuse-client.js';
import { Random } from '../support/random.js';
import { fuseTransport } from '../support/vhost-user.js';
import { startOf } from './attacker.js';

/*
 * A guest that takes as much as it gets of one resource after the other, through a connection of
 * its own for each.
 */

/** Requests in flight. */
const DEPTH = 64;
/** Refusals in a row, after which a resource is taken to be exhausted. */
const REFUSALS = 2000;

const { socket, seed, end, finish } = startOf();
const random = new Random(seed);
const counts: Record<string, number> = {};

/** Takes one resource until it is refused. */
async function flood(name: string, until: number): Promise<void> {
  const frontEnd = await FrontEnd.connect(socket, { queueSize: 256, memory: 32 * 2 ** 20 });
  try {
    const client = new FuseClient(fuseTransport(frontEnd));
    await client.init();
    const place = await groundOf(client, `${name}-${random.next()}`);
    const take = floods[name]!;
    let next = 0;
    let refusals = 0;
    const lane = async (): Promise<void> => {
      while (Date.now() < until && refusals < REFUSALS) {
        try {
          await take(place, next++);
          counts[name] = (counts[name] ?? 0) + 1;
          refusals = 0;
        } catch (error) {
          if (!(error instanceof FuseError)) throw error;
          refusals += 1;
        }
      }
    };
    await Promise.all(Array.from({ length: DEPTH }, lane));
  } finally {
    frontEnd.close();
  }
}

/** Connects as often as it can, and says nothing. */
async function connections(until: number): Promise<void> {
  const open: UnixConnection[] = [];
  while (Date.now() < until) {
    try {
      open.push(UnixConnection.connect(socket));
      counts['connections'] = (counts['connections'] ?? 0) + 1;
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
    }
    if (open.length === 100) for (const connection of open.splice(0)) connection.close();
    await sleep(1);
  }
  for (const connection of open) connection.close();
}

const names = Object.keys(floods);
const slice = Math.max(500, (end - Date.now()) / (names.length + 1));
while (Date.now() < end) {
  for (const name of names.sort(() => random.below(3) - 1)) {
    const until = Math.min(end, Date.now() + slice);
    try {
      await flood(name, until);
    } catch (error) {
      // Too many connections, no room even for a directory, or the connection was ended.
      if (!(error instanceof FrontEndError || error instanceof SystemError || error instanceof FuseError))
        throw error;
      await sleep(20);
    }
    if (Date.now() >= end) break;
  }
  await connections(Math.min(end, Date.now() + slice));
}
finish(counts);
