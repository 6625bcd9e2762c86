import { Worker } from 'node:worker_threads';
import { setImmediate as turn } from 'node:timers/promises';
import { signal } from '../../core/system/index.js';
import { DATA, echo, GUEST, Rig } from '../core/virtqueue/rig.js';

/*
 * Serves requests from a queue. Another thread tries to make writes to its `kick` or `call` block.
 * Prints how many requests were served, and how often the other thread has tried.
 */

const which = process.argv[2] as 'kick' | 'call';
const requests = Number(process.argv[3]);
const rig = new Rig({ eventIdx: false });
rig.start(echo);
const word = new SharedArrayBuffer(8);
const state = new Int32Array(word);
const worker = new Worker(new URL('./blocking-front-end.js', import.meta.url), {
  workerData: { fd: rig[which].value, word, fill: which === 'call' },
});
while (Atomics.load(state, 0) === 0) await turn();

let served = 0;
while (served < requests) {
  const { driver } = rig;
  driver.begin();
  driver.readable(GUEST + DATA, 3);
  driver.writable(GUEST + DATA + 64, 8);
  driver.submit();
  driver.publish();
  if (which === 'kick') {
    signal(rig.kick.value);
    await turn();
  }
  // The other thread may have taken a kick. It then counts as none.
  rig.queue.kick();
  while (driver.ready) {
    driver.poll();
    served += 1;
  }
}
Atomics.store(state, 0, 2);
await new Promise((resolve) => worker.once('exit', resolve));
console.log(JSON.stringify({ served, tries: state[1] }));
rig.close();
