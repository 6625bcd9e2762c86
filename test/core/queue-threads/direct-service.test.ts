import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { hostBuffer } from '../../../core/memory/index.js';
import { DescriptorUse, SharedDescriptors } from '../../../core/system/index.js';
import { DirectCalls } from '../../../core/queue-threads/direct-calls.js';
import { DirectService } from '../../../core/queue-threads/direct-service.js';
import { mailboxMemory, ThreadMailbox } from '../../../core/queue-threads/mailbox.js';
import { SharedFileTable, FileTableView } from '../../../core/queue-threads/shared-file-table.js';
import type { QueueMessage } from '../../../core/virtqueue/index.js';
import { temporaryFolder } from '../../support/vhost-user.js';
import { withPlainNumbers } from '../../support/plain-numbers.js';

const GETATTR = 3;
const HEADER_BYTES = 40;
const ATTR_REPLY_BYTES = 16 + 104;
/** `fuse_attr.size` behind `fuse_out_header` and the validity. */
const SIZE_AT = 16 + 16 + 8;
const NODE = 50;
const QUEUE = 128;
const none = { seconds: 0, nanoseconds: 0 };

/** A GETATTR that a queue has taken. */
class Message {
  readonly readable = hostBuffer(HEADER_BYTES + 16);
  readonly writable = hostBuffer(ATTR_REPLY_BYTES);
  id: number;
  outcome = 'none';

  constructor(id: number) {
    this.id = id;
    const header = Buffer.alloc(HEADER_BYTES + 16);
    header.writeUInt32LE(header.length, 0);
    header.writeUInt32LE(GETATTR, 4);
    header.writeBigUInt64LE(BigInt(id), 8);
    header.writeBigUInt64LE(BigInt(NODE), 16);
    this.readable.put(0, header);
  }

  complete(): void {
    const reply = Buffer.alloc(ATTR_REPLY_BYTES);
    this.writable.get(0, reply);
    this.outcome = `${reply.readBigUInt64LE(SIZE_AT)} bytes`;
    this.id = -1;
  }

  fail(): void {
    this.outcome = 'failed';
    this.id = -1;
  }
}

test('after a fault in one queue of a thread another has its own results', (t) => {
  const folder = temporaryFolder(t);
  const descriptors = new SharedDescriptors();
  const use = new DescriptorUse(descriptors.join());
  const calls = new DirectCalls();
  t.after(() => calls.close());

  const serve = (bytes: number): DirectService => {
    const path = join(folder, `${bytes}`);
    fs.writeFileSync(path, Buffer.alloc(bytes));
    const fd = fs.openSync(path, 'r');
    t.after(() => fs.closeSync(fd));
    const fileTable = withPlainNumbers(new SharedFileTable(descriptors));
    fileTable.begin(
      { entry: none, negative: none, attributes: none },
      { returnLookups: () => undefined, attributesDiffer: () => undefined },
    );
    fileTable.publishNode(
      5,
      NODE,
      0,
      { fd, attributes: true, readFlags: 0, writes: false, names: false },
      undefined,
    );
    const mailbox = new ThreadMailbox(mailboxMemory(QUEUE), QUEUE);
    return new DirectService(mailbox, new FileTableView(fileTable.memory, use), use, calls, () => undefined);
  };
  const send = (service: DirectService, messages: readonly Message[]): string[] => {
    for (const [i, message] of messages.entries())
      service.dispatch(message as unknown as QueueMessage, messages.length - 1 - i);
    service.submit();
    return messages.map(({ outcome }) => outcome);
  };
  const several = (): Message[] => Array.from({ length: 8 }, (_, i) => new Message(i));

  const one = serve(4242);
  const other = serve(777);
  assert.deepEqual(send(one, several()), Array(8).fill('4242 bytes'));
  const faulty = several();
  t.mock.method(faulty[2]!, 'complete', () => {
    throw new Error('no room in the ring');
  });
  const outcomes = [...Array<string>(2).fill('4242 bytes'), ...Array<string>(6).fill('failed')];
  assert.deepEqual(send(one, faulty), outcomes);
  assert.deepEqual(send(other, several()), Array(8).fill('777 bytes'));
  assert.deepEqual(send(one, several()), Array(8).fill('4242 bytes'));
});
