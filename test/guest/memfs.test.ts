import { fastest } from '../support/uml.js';
import { runWorkloads } from './workloads.js';

runWorkloads('memfs', async () => ({ type: 'memfs', size: '1g' }), { accelerator: fastest() });
