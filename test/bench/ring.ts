/**
 * What a ring costs: a driver and a device in one process, with requests that do nothing. By hand:
 * `node dist/test/bench/ring.js [requests]`.
 */
import type { Message } from '../../core/memory/index.js';
import { DATA, GUEST, Rig } from '../core/virtqueue/rig.js';

const requests = Number(process.argv[2] ?? 2_000_000);

function each(time: bigint): string {
  return (Number(time) / requests).toFixed(0);
}

function measure(
  name: string,
  options: { size: number; eventIdx: boolean; indirect: number; pages: number },
): void {
  const rig = new Rig({ ...options, memory: 16 * 2 ** 20 });
  const { driver, queue } = rig;
  const batch = options.indirect > 0 ? 32 : Math.min(32, Math.floor(options.size / (3 + options.pages)));
  const header = new Uint32Array(64);
  const answer = (message: Message) => {
    message.readable.copyWordsOut(0, header, 0, 10);
    message.readable.copyWordsOut(40, header, 10, 10);
    const { writable } = message;
    const data = writable.window(16, writable.length);
    header[0] = data.iovCount + data.length;
    writable.copyWordsIn(0, header, 0, 4);
    message.complete(writable.length);
  };
  queue.start(answer);
  let device = 0n;
  let total = 0n;
  let interrupts = 0;
  driver.enableInterrupts();
  for (let done = 0; done < requests;) {
    const begun = process.hrtime.bigint();
    for (let i = 0; i < batch; i++) {
      driver.begin();
      const at = GUEST + DATA + i * 65536;
      driver.readable(at, 40);
      driver.readable(at + 64, 40);
      driver.writable(at + 128, 16);
      for (let page = 1; page <= options.pages; page++) driver.writable(at + page * 4096, 4096);
      driver.submit();
    }
    driver.publish();
    const kicked = process.hrtime.bigint();
    queue.kick();
    device += process.hrtime.bigint() - kicked;
    while (driver.poll() >= 0) done += 1;
    if (driver.enableInterrupts()) interrupts += 1;
    total += process.hrtime.bigint() - begun;
  }
  process.stdout.write(`${name}: device ${each(device)} ns, both ${each(total)} ns a request\n`);
  if (interrupts > 0) process.stdout.write(`  ${interrupts} late\n`);
  rig.close();
}

for (const eventIdx of [true, false]) {
  const name = eventIdx ? 'EVENT_IDX' : 'no EVENT_IDX';
  measure(`${name}, one page, chained`, { size: 256, eventIdx, indirect: 0, pages: 1 });
  measure(`${name}, one page, indirect`, { size: 256, eventIdx, indirect: 8, pages: 1 });
}
measure('EVENT_IDX, no data, indirect', { size: 256, eventIdx: true, indirect: 8, pages: 0 });
measure('EVENT_IDX, 15 pages, indirect', { size: 256, eventIdx: true, indirect: 24, pages: 15 });
