/**
 * Makes random steps on a mount until it is killed, and tells of each before and after it. See
 * `schedule.ts`.
 */
import { writeSync } from 'node:fs';
import { Random } from '../../../support/random.js';
import { Mount, TestBucket } from '../support.js';
import { Steps } from './steps.js';

const [name = '', endpoint = '', seed = '', options = '{}'] = process.argv.slice(2);
const tell = (message: object): void => void writeSync(1, `${JSON.stringify(message)}\n`);

tell({ starts: true });
const mount = await Mount.open(
  TestBucket.open(name, endpoint),
  JSON.parse(options) as Record<string, unknown>,
);
tell({ mounted: true });
const steps = new Steps(mount, new Random(Number(seed)), {
  begin: (step) => tell({ step }),
  end: (ending) => tell({ ending }),
  read: (file, digest) => tell({ read: file, digest }),
  isOver: false,
});
for (;;) await steps.next();
