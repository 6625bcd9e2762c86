import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import * as fc from 'fast-check';
import { copyRange } from '../../../../backends/memfs/content/allocation.js';
import { Arena } from '../../../../backends/memfs/content/arena.js';
import { CHUNK_BYTES, PAGE_BYTES } from '../../../../backends/memfs/content/chunk.js';
import { Content } from '../../../../backends/memfs/content/content.js';
import { Space } from '../../../../backends/memfs/tree/space.js';
import { FsError } from '../../../../core/backend/index.js';
import { checkProperty } from '../../../support/random.js';
import { bufferOf } from '../support.js';

const HEAP_BYTES = 2 ** 40;
const FILES = 3;
const PAGES_OF_CHUNK = CHUNK_BYTES / PAGE_BYTES;
/** Chunks at which something changes in a tree whose nodes have 64 children. */
const CHUNKS = [0, 1, 2, 63, 64, 65, 127, 4095, 4096, 4097, 262_143, 262_144, 2 ** 30 + 5, 2 ** 35];

/** A file as a list of its pages: the byte that fills each, or undefined if it has no data. */
class PlainFile {
  size = 0;
  pages = new Map<number, number | undefined>();

  copy(): PlainFile {
    const copy = new PlainFile();
    copy.size = this.size;
    copy.pages = new Map(this.pages);
    return copy;
  }

  /** Starts and ends of data, as far as the file goes. */
  edges(): number[] {
    const data = [...this.pages].filter(
      ([page, byte]) => byte !== undefined && page * PAGE_BYTES < this.size,
    );
    const edges: number[] = [];
    for (const page of data.map(([index]) => index).sort((a, b) => a - b)) {
      if (edges.at(-1) === page * PAGE_BYTES) edges.pop();
      else edges.push(page * PAGE_BYTES);
      edges.push(Math.min((page + 1) * PAGE_BYTES, this.size));
    }
    return edges;
  }
}

const page = fc
  .tuple(fc.constantFrom(...CHUNKS), fc.nat(PAGES_OF_CHUNK - 1))
  .map(([chunk, at]) => chunk * PAGES_OF_CHUNK + at);
const which = fc.nat(FILES - 1);
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('write'),
      file: which,
      page,
      byte: fc.integer({ min: 1, max: 255 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('allocate'),
      file: which,
      page,
      count: fc.integer({ min: 1, max: 70 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('punch'), file: which, page, to: page }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('truncate'), file: which, page }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('clone'), file: which, to: which }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('copy'),
      file: which,
      to: which,
      page,
      chunk: fc.constantFrom(...CHUNKS),
    }),
  },
);

interface Step {
  readonly kind: string;
  readonly file: number;
  readonly page: number;
  readonly to: number;
  readonly byte: number;
  readonly count: number;
  readonly chunk: number;
}

test('content, however sparse and shared, is what a list of pages says, and all of its heap comes back', async (t) => {
  await checkProperty(
    t,
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const arena = new Arena(Infinity, HEAP_BYTES);
      const space = new Space(2 ** 30, 100);
      const files = Array.from({ length: FILES }, () => new Content());
      const plain = Array.from({ length: FILES }, () => new PlainFile());
      const drop = (content: Content): void => {
        space.givePages(content.pages);
        space.contentHeapBytes -= content.heapBytes;
        content.clear(arena);
      };
      for (const { kind, file, page: at, to, byte, count, chunk } of steps as unknown as Step[]) {
        const content = files[file]!;
        const model = plain[file]!;
        if (kind === 'write') {
          content.write(bufferOf(new Uint8Array(PAGE_BYTES).fill(byte)), at * PAGE_BYTES, arena, space);
          model.pages.set(at, byte);
          model.size = Math.max(model.size, (at + 1) * PAGE_BYTES);
        } else if (kind === 'allocate') {
          content.allocate(at * PAGE_BYTES, (at + count) * PAGE_BYTES, arena, space);
          for (let i = at; i < at + count; i++)
            model.pages.set(i, model.pages.has(i) ? (model.pages.get(i) ?? 0) : undefined);
        } else if (kind === 'punch') {
          content.punch(at * PAGE_BYTES, to * PAGE_BYTES, arena, space);
          for (const i of model.pages.keys()) if (i >= at && i < to) model.pages.delete(i);
        } else if (kind === 'truncate') {
          const size = at * PAGE_BYTES;
          if (size <= model.size) for (const i of model.pages.keys()) if (i >= at) model.pages.delete(i);
          content.truncate(size, arena, space);
          model.size = size;
        } else if (kind === 'clone' && file !== to) {
          drop(files[to]!);
          files[to] = content.clone();
          plain[to] = model.copy();
          space.takePages(content.pages);
          space.contentHeapBytes += content.heapBytes;
        } else if (kind === 'copy') {
          // A whole chunk, from where it may be one.
          const from = at - (at % PAGES_OF_CHUNK);
          const target = plain[to]!;
          const copy = (): number =>
            copyRange(content, from * PAGE_BYTES, files[to]!, chunk * CHUNK_BYTES, CHUNK_BYTES, arena, space);
          if (file === to && from === chunk * PAGES_OF_CHUNK && from * PAGE_BYTES < model.size) {
            assert.throws(copy, { code: 'EINVAL' });
            continue;
          }
          const copied = copy();
          assert.equal(copied, Math.max(0, Math.min(CHUNK_BYTES, model.size - from * PAGE_BYTES)));
          const bytes = Array.from(
            { length: Math.ceil(copied / PAGE_BYTES) },
            (_, i) => model.pages.get(from + i) ?? 0,
          );
          bytes.forEach((value, i) => target.pages.set(chunk * PAGES_OF_CHUNK + i, value));
          if (copied > 0) target.size = Math.max(target.size, chunk * CHUNK_BYTES + copied);
        }
      }
      let pages = 0;
      let heapBytes = 0;
      files.forEach((content, i) => {
        const model = plain[i]!;
        assert.equal(content.size, model.size);
        assert.equal(content.pages, model.pages.size);
        const found: number[] = [];
        for (const [from, to] of content.extents()) found.push(from, to);
        assert.deepEqual(found, model.edges());
        for (const [index, byte] of model.pages) {
          if (index * PAGE_BYTES >= model.size) continue;
          const buffer = bufferOf(1);
          content.read(buffer, index * PAGE_BYTES + 17);
          assert.equal(buffer.bytes[0], byte ?? 0);
        }
        pages += content.pages;
        heapBytes += content.heapBytes;
      });
      assert.deepEqual([space.pages, space.contentHeapBytes], [pages, heapBytes]);
      for (const content of files) drop(content);
      assert.deepEqual([space.pages, space.contentHeapBytes], [0, 0]);
      for (let turn = 0; turn < 100 && !arena.hasHeap(HEAP_BYTES, 0); turn++) await nextTurn();
      assert.ok(arena.hasHeap(HEAP_BYTES, 0));
      assert.equal(arena.blockBytes, 0);
    }),
  );
});

test('a volume is refused further content before it takes more heap than it leaves to others', () => {
  const arena = new Arena(Infinity, 2 ** 20);
  const spaces = [new Space(2 ** 30, 100), new Space(2 ** 30, 100)] as const;
  const taken = spaces.map((space) => {
    const content = new Content();
    for (let i = 0; ; i++) {
      try {
        content.write(bufferOf('x'), i * 2 ** 40, arena, space);
      } catch (error) {
        assert.equal((error as FsError).code, 'ENOSPC');
        assert.equal(content.pages, i);
        // What is there can be written, and can be removed.
        content.write(bufferOf('y'), 0, arena, space);
        content.truncate(1, arena, space);
        content.write(bufferOf('x'), 2 ** 40, arena, space);
        content.truncate(1, arena, space);
        return i;
      }
    }
  });
  assert.ok(taken[0]! > 50 && taken[1]! > 0 && taken[1]! >= taken[0]! / 2 - 5, String(taken));
});
