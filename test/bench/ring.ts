/**
 * Measures what a ring costs. Driver and device are in one process. The device reads and writes
 * headers, and leaves data as it is. Its share has one interrupt, a system call, for each batch.
 * Run by hand: `node dist/test/bench/ring.js [requests]`.
 */
import type { Message } from '../../core/memory/index.js';
import { DATA, GUEST, Rig } from '../core/virtqueue/rig.js';

const requests = Number(process.argv[2] ?? 2_000_000);

/** The median of all batches, which leaves out those that were disturbed. */
function median(times: number[]): number {
  return times.sort((a, b) => a - b)[times.length >> 1]!;
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
  rig.start(answer);
  const device: number[] = [];
  const driving: number[] = [];
  driver.enableInterrupts();
  for (let done = 0; done < requests;) {
    const begun = performance.now();
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
    const kicked = performance.now();
    queue.kick();
    const answered = performance.now();
    while (driver.poll() >= 0) done += 1;
    driver.enableInterrupts();
    const finished = performance.now();
    device.push(((answered - kicked) * 1e6) / batch);
    driving.push(((kicked - begun + finished - answered) * 1e6) / batch);
  }
  const figures = `device ${median(device).toFixed(0)} ns, driver ${median(driving).toFixed(0)} ns`;
  process.stdout.write(`${name}: ${figures} a request, ${batch} at a time\n`);
  rig.close();
}

for (const eventIdx of [true, false]) {
  const name = eventIdx ? 'EVENT_IDX' : 'no EVENT_IDX';
  measure(`${name}, one page, chained`, { size: 256, eventIdx, indirect: 0, pages: 1 });
  measure(`${name}, one page, indirect`, { size: 256, eventIdx, indirect: 8, pages: 1 });
}
measure('EVENT_IDX, no data, indirect', { size: 256, eventIdx: true, indirect: 8, pages: 0 });
measure('EVENT_IDX, 15 pages, indirect', { size: 256, eventIdx: true, indirect: 24, pages: 15 });
