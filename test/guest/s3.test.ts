import { after } from 'node:test';
import { removeFolders, temporaryFolder, TestBucket } from '../backends/s3/support.js';
import { WITHOUT_HARD_LINKS } from '../support/workloads.js';
import { runWorkloads } from './workloads.js';

after(removeFolders);

// There is one name for one object; and 25,000 requests one after the other take minutes: `reading.test.ts` lists.
runWorkloads(
  's3',
  async () => {
    const { name, endpoint } = await TestBucket.create();
    return { type: 's3', bucket: name, endpoint, pathStyle: true, cacheDir: await temporaryFolder() };
  },
  /hard links share|10,000 files|names are removed and added/,
  WITHOUT_HARD_LINKS,
);
