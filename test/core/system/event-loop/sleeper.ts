import { isMainThread, Worker } from 'node:worker_threads';
import { eventfd, signal, watchClosely, watchSignals } from '../../../../core/system/index.js';

// A program whose threads have a sleep of their own, for `own-sleep.test.ts`.

const mode = isMainThread ? process.argv[2] : 'thread';
const fd = eventfd();

function watchNothing(): { close(): void } {
  return watchSignals(fd.value, () => {});
}

switch (mode) {
  case 'close': {
    const watched = watchNothing();
    setTimeout(() => watched.close(), 20);
    break;
  }
  case 'idle':
    watchNothing();
    process.stdout.write('ready\n');
    break;
  case 'thread': {
    const { parentPort } = await import('node:worker_threads');
    const watched = watchNothing();
    parentPort!.once('message', () => {
      watched.close();
    });
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
    setTimeout(() => parentPort!.postMessage('asleep'), 20);
    break;
  }
  case 'exit-beside-thread':
  case 'end-thread': {
    watchNothing();
    const worker = new Worker(new URL(import.meta.url));
    worker.once('message', () => {
      if (mode === 'exit-beside-thread') setTimeout(() => process.exit(7), 20);
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker has none
      else worker.postMessage('end');
    });
    worker.once('exit', () => process.exit(0));
    break;
  }
  case 'throw': {
    let calls = 0;
    process.on('uncaughtException', (error) => {
      process.stderr.write(`${error.message} `);
      if (error.message !== 'promise') signal(fd.value);
      else setTimeout(() => process.exit(0), 20);
    });
    watchSignals(fd.value, () => {
      calls += 1;
      if (calls === 1) throw new Error('callback');
      if (calls === 2) {
        process.nextTick(() => {
          throw new Error('tick');
        });
      }
      if (calls === 3)
        queueMicrotask(() => {
          throw new Error('promise');
        });
    });
    signal(fd.value);
    break;
  }
  default: {
    const unused = watchClosely(fd.value, () => {});
    unused.close();
  }
}
