import { createLogger } from '../../core/plugins/logger.js';

/*
 * Logs lines without end to standard error, whatever that is, for some milliseconds; then says by
 * its standard output how long its event loop ever stood still, and logs until it is told to end.
 */

const milliseconds = Number(process.argv[2]);
const log = createLogger({ level: 'info', format: 'json' });
let most = 0;
let lines = 0;
let last = performance.now();
const end = last + milliseconds;

function turn(): void {
  const now = performance.now();
  most = Math.max(most, now - last);
  last = now;
  for (let i = 0; i < 100; i++) log.info({ line: lines++ }, 'a line that is as long as many lines are');
  if (now < end) setImmediate(turn);
  else {
    process.stdout.write(`${JSON.stringify({ most, lines })}\n`);
    const slowly = setInterval(() => log.info({}, 'still here'), 50);
    process.stdin.on('data', () => {
      clearInterval(slowly);
      process.stdin.destroy();
    });
  }
}
turn();
