import { mountOurs, operations } from './crash-operations.js';

/**
 * Makes one change and dies, without any clean-up, at its nth step: `node crash-child.js DIRECTORY
 * OPERATION STEP`.
 */
const [directory = '', name = '', step = '0'] = process.argv.slice(2);
const operation = operations[name];
if (operation === undefined) throw new Error(`no operation ${name}`);

let reached = 0;
const paths = await mountOurs(directory, () => {
  reached += 1;
  if (reached === Number(step)) process.kill(process.pid, 'SIGKILL');
});
reached = 0;
await operation(paths);
process.exit(0);
