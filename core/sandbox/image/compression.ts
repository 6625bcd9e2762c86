import { spawn } from 'node:child_process';
import { Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { UsageError } from '../../backend/index.js';

/** How a layer is compressed, as media types name it. */
export type Compression = 'gzip' | 'zstd';

const MAGIC: Readonly<Record<Compression, readonly number[]>> = {
  gzip: [0x1f, 0x8b],
  zstd: [0x28, 0xb5, 0x2f, 0xfd],
};

/** Bytes that tell how something is compressed. */
export const MAGIC_BYTES = 4;

/** Tells by its first bytes how something is compressed. Undefined: it is not. */
export function compressionOf(start: Uint8Array): Compression | undefined {
  const kinds = Object.keys(MAGIC) as Compression[];
  return kinds.find((kind) => MAGIC[kind].every((byte, at) => start[at] === byte));
}

/** A stream that unpacks. */
export function decompressor(compression: Compression | undefined): NodeJS.ReadWriteStream | undefined {
  if (compression === undefined) return undefined;
  if (compression === 'gzip') return zlib.createGunzip({ chunkSize: 1 << 20 });
  // Node has it from 22.15 on.
  const { createZstdDecompress } = zlib as { createZstdDecompress?: () => Transform };
  return createZstdDecompress === undefined ? zstdProgram() : createZstdDecompress();
}

/** The program zstd as a stream. */
function zstdProgram(): NodeJS.ReadWriteStream {
  const child = spawn('zstd', ['-dcq'], { stdio: ['pipe', 'pipe', 'ignore'] });
  const output = new Transform({
    transform(bytes: Buffer, _encoding, done) {
      child.stdin.write(bytes, (error) => done(error ?? null));
    },
    flush(done) {
      child.once('close', (code) => done(code === 0 ? null : new Error('damaged: zstd cannot read it')));
      child.stdin.end();
    },
    destroy(error, done) {
      child.kill('SIGKILL');
      done(error);
    },
  });
  child.stdin.on('error', () => {});
  child.stdout.on('data', (bytes: Buffer) => {
    if (output.push(bytes)) return;
    child.stdout.pause();
  });
  output.on('resume', () => child.stdout.resume());
  child.on('error', () =>
    output.destroy(new UsageError('zstd, which Node reads from 22.15 on: apt-get install zstd')),
  );
  return output;
}
