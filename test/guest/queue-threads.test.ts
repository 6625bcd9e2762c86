import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fastest } from '../support/uml.js';
import { runWorkloads } from './workloads.js';

const folder = await mkdtemp(join(tmpdir(), 'virtiofs-kit-threads-'));
after(() => rm(folder, { recursive: true, force: true }));

runWorkloads(
  'passthrough, served by a queue thread',
  async () => ({ type: 'passthrough', sharedDir: folder }),
  { served: { queueThreads: 1 }, onThread: true, accelerator: fastest() },
);
