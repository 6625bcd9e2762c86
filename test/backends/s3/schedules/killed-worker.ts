/**
 * Makes random steps on mounts of several schedules until it is killed, and tells of each before
 * and after it. See `killed.ts`.
 */
// Before all that changes files.
import { killAtChange, tell } from './own-kill.js';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { Random } from '../../../support/random.js';
import { Mount, TestBucket } from '../support.js';
import type { Order } from './killed.js';
import { Steps } from './steps.js';

async function serve({ id, name, endpoint, seed, options, afterMs }: Order): Promise<void> {
  await sleep(afterMs);
  tell({ id, starts: true });
  let mount: Mount;
  try {
    mount = await Mount.open(TestBucket.open(name, endpoint), options);
  } catch (error) {
    tell({ id, failed: String(error) });
    return;
  }
  tell({ id, mounted: true });
  const steps = new Steps(mount, new Random(seed), {
    begin: (step) => tell({ id, step }),
    end: (ending) => tell({ id, ending }),
    read: (file, digest) => tell({ id, read: file, digest }),
    isOver: false,
  });
  for (;;) await steps.next();
}

const [changes = '', before = ''] = process.argv.slice(2);
if (changes !== '') killAtChange(Number(changes), before === 'before');
for await (const line of createInterface({ input: process.stdin })) void serve(JSON.parse(line) as Order);
