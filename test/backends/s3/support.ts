import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import type { PutObjectCommandInput } from '@aws-sdk/client-s3';
import { request } from 'undici';
import type { Dispatcher } from 'undici';
import { FsError, type Context, type GuestBuffer, type HostBuffer } from '../../../core/backend/index.js';
import { LeasedBackend } from '../../../backends/s3/leased-backend.js';
import { Deadline } from '../../../backends/s3/client/deadline.js';
import { ReadingBackend } from '../../../backends/s3/reading-backend.js';
import type { OpenFile } from '../../../backends/s3/write/files.js';
import type { Directory, Node } from '../../../backends/s3/tree/nodes.js';
import { optionsSchema, type S3Options } from '../../../backends/s3/options.js';
import { WritableBackend } from '../../../backends/s3/writable-backend.js';
import { signed } from './signature.js';
import type { ExportOptions } from '../../../core/state/index.js';
import { keepingLog, MountedExport, type KeepingLog } from '../../support/host-mount.js';
import { sharedServer } from '../../s3-server/shared.js';

/** A buffer in ordinary memory, in two segments so that nobody relies on one. */
export class HeapBuffer implements GuestBuffer {
  readonly bytes: Buffer;
  readonly iov = 0;
  readonly iovCount = 0;
  readonly address = 0;

  constructor(bytes: Uint8Array | number) {
    this.bytes = typeof bytes === 'number' ? Buffer.alloc(bytes, 0xee) : Buffer.from(bytes);
  }

  get length(): number {
    return this.bytes.length;
  }

  get segments(): readonly Uint8Array[] {
    const half = this.length >> 1;
    return [this.bytes.subarray(0, half), this.bytes.subarray(half)].filter(({ length }) => length > 0);
  }

  put(at: number, source: Uint8Array, start = 0, end = source.length): void {
    if (at + end - start > this.length) throw new RangeError('does not fit');
    this.bytes.set(source.subarray(start, end), at);
  }

  get(at: number, target: Uint8Array, start = 0, end = target.length): void {
    if (at + end - start > this.length) throw new RangeError('too little');
    target.set(this.bytes.subarray(at, at + end - start), start);
  }

  zero(at: number, length: number): void {
    if (at + length > this.length) throw new RangeError('does not fit');
    this.bytes.fill(0, at, at + length);
  }

  slice(start: number, end?: number): GuestBuffer {
    const part = new HeapBuffer(0);
    Object.assign(part, { bytes: this.bytes.subarray(start, end) });
    return part;
  }
}

function heapBuffer(length: number): HostBuffer {
  return Object.assign(new HeapBuffer(Buffer.alloc(length)), { close: () => undefined });
}

export const context: Context = {
  uid: 1000,
  gid: 100,
  pid: 1,
  umask: 0,
  groups: [],
  securityContext: undefined,
  // Each request has a signal of its own, as the engine gives it.
  get signal() {
    return new AbortController().signal;
  },
};

/** For `assert.rejects`: an error of the backend, by its code. */
export const denied = (code: string) => (error: unknown) => error instanceof FsError && error.code === code;

/**
 * A bucket of a test's own on the shared server. The test uses it by the SDK, beside the backend.
 */
export class TestBucket {
  readonly name: string;
  readonly endpoint: string;
  readonly client: S3Client;

  private constructor(name: string, endpoint: string, client: S3Client) {
    this.name = name;
    this.endpoint = endpoint;
    this.client = client;
  }

  /** A new bucket on the shared server. */
  static async create(): Promise<TestBucket> {
    const bucket = TestBucket.open(`t-${randomUUID()}`, await sharedServer());
    await bucket.client.send(new CreateBucketCommand({ Bucket: bucket.name }));
    return bucket;
  }

  /** A bucket that exists. */
  static open(name: string, endpoint: string): TestBucket {
    const checksums = 'WHEN_REQUIRED';
    const client = new S3Client({
      endpoint,
      region: 'us-east-1',
      forcePathStyle: true,
      requestChecksumCalculation: checksums,
      responseChecksumValidation: checksums,
    });
    return new TestBucket(name, endpoint, client);
  }

  async put(
    key: string,
    body: string | Uint8Array,
    fields: Partial<PutObjectCommandInput> = {},
  ): Promise<void> {
    await this.client.send(new PutObjectCommand({ Bucket: this.name, Key: key, Body: body, ...fields }));
  }

  async get(key: string): Promise<Buffer> {
    const answer = await this.client.send(new GetObjectCommand({ Bucket: this.name, Key: key }));
    return Buffer.from((await answer.Body?.transformToByteArray()) ?? []);
  }

  /**
   * A request without the SDK, which changes headers.
   * @param path percent-encoded key, and the query if there is one
   * @param headers a character for each byte
   * @returns headers in the same way.
   */
  async plain(
    method: Dispatcher.HttpMethod,
    path: string,
    headers: Readonly<Record<string, string>> = {},
    body: Buffer = Buffer.alloc(0),
  ): Promise<{ status: number; headers: IncomingHttpHeaders; body: string }> {
    const url = new URL(`${this.endpoint}/${this.name}/${path}`);
    const answer = await request(url, { method, headers: signed(method, url, headers, body), body });
    return { status: answer.statusCode, headers: answer.headers, body: await answer.body.text() };
  }

  async remove(key: string): Promise<void> {
    await this.client.send(new DeleteObjectCommand({ Bucket: this.name, Key: key }));
  }

  async metadata(key: string): Promise<Record<string, string>> {
    const answer = await this.client.send(new HeadObjectCommand({ Bucket: this.name, Key: key }));
    return answer.Metadata ?? {};
  }

  async keys(prefix = ''): Promise<string[]> {
    const keys: string[] = [];
    let token: string | undefined;
    do {
      const answer = await this.client.send(
        new ListObjectsV2Command({
          Bucket: this.name,
          Prefix: prefix,
          ...(token === undefined ? {} : { ContinuationToken: token }),
        }),
      );
      keys.push(...(answer.Contents ?? []).map((object) => object.Key ?? ''));
      token = answer.NextContinuationToken;
    } while (token !== undefined);
    return keys;
  }
}

function backendOf(options: S3Options): ReadingBackend {
  if (options.sharing === 'leases') return new LeasedBackend(options);
  return options.readOnly ? new ReadingBackend(options) : new WritableBackend(options);
}

/** A mounted backend, driven by paths. */
export class Mount {
  readonly backend: WritableBackend;
  readonly log: KeepingLog;
  readonly cacheDir: string;
  readonly root: Directory;

  private constructor(backend: WritableBackend, log: KeepingLog, cacheDir: string, root: Directory) {
    this.backend = backend;
    this.log = log;
    this.cacheDir = cacheDir;
    this.root = root;
  }

  /** As {@link start}, and finds out what the server keeps, which the first write would do. */
  static async open(...given: Parameters<typeof Mount.start>): Promise<Mount> {
    const mount = await Mount.start(...given);
    const { bucket } = mount.backend.mounted.services;
    if (bucket.capabilities === undefined) await bucket.learn?.(Deadline.never);
    return mount;
  }

  /**
   * Mounts a bucket; without `cacheDir` with an empty cache folder of its own.
   * @param traces what a process has told that was killed.
   */
  static async start(
    bucket: TestBucket,
    options: Record<string, unknown> = {},
    traces?: ReadonlyMap<string, string>,
  ): Promise<Mount> {
    const parsed = await optionsOf(bucket, { writebackDelay: 0, ...options });
    const backend = backendOf(parsed);
    const log = keepingLog();
    if (traces !== undefined) backend.recovery.retrace!(traces);
    const root = await backend.mount({ log, createBuffer: heapBuffer });
    return new Mount(backend as WritableBackend, log, parsed.cacheDir!, root as Directory);
  }

  async close(): Promise<void> {
    await this.backend.unmount();
  }

  /** The node at a path, or nothing. */
  async node(path: string): Promise<Node | undefined> {
    let node: Node | undefined = this.root;
    for (const name of path.split('/').filter((part) => part !== '')) {
      if (node === undefined) return undefined;
      node = (await this.backend.lookup(node, name, context))?.node;
    }
    return node;
  }

  /** The node at a path, which must be there. */
  async at(path: string): Promise<Node> {
    const node = await this.node(path);
    if (node === undefined) throw new Error(`${path}: not found`);
    return node;
  }

  /** Directory and last name of a path. */
  async place(path: string): Promise<[Node, string]> {
    const slash = path.lastIndexOf('/');
    return [await this.at(path.slice(0, Math.max(0, slash))), path.slice(slash + 1)];
  }

  async names(path: string): Promise<string[]> {
    const names: string[] = [];
    for await (const { name } of await this.backend.readdir(await this.at(path), context)) names.push(name);
    return names.filter((name) => name !== '.' && name !== '..').sort();
  }

  async openFile(path: string, flags = 2): Promise<OpenFile> {
    return (await this.backend.open(await this.at(path), flags, context)).file;
  }

  async create(path: string, flags = 0o102, mode = 0o644): Promise<OpenFile> {
    const [parent, name] = await this.place(path);
    return (await this.backend.create(parent, name, mode, flags, context)).file;
  }

  async read(file: OpenFile, offset: number, length: number): Promise<Buffer> {
    const buffer = new HeapBuffer(length);
    const count = await this.backend.read(file.node, file, buffer, offset, context);
    return buffer.bytes.subarray(0, count);
  }

  /** @param flags of `WriteFlags` */
  async write(file: OpenFile, offset: number, bytes: string | Uint8Array, flags = 0): Promise<void> {
    const buffer = new HeapBuffer(Buffer.from(bytes as Uint8Array));
    const count = await this.backend.write(file.node, file, buffer, offset, flags, context);
    if (count !== buffer.length) throw new Error(`wrote ${count} of ${buffer.length}`);
  }

  async fsync(file: OpenFile): Promise<void> {
    await this.backend.fsync(file.node, file, false, context);
  }

  async release(file: OpenFile): Promise<void> {
    await this.backend.release(file.node, file);
  }

  /** All of a file's content. */
  async content(path: string): Promise<Buffer> {
    const file = await this.openFile(path, 0);
    try {
      const chunks: Buffer[] = [];
      for (let at = 0; ;) {
        const chunk = await this.read(file, at, 128 * 1024);
        if (chunk.length === 0) return Buffer.concat(chunks);
        chunks.push(chunk);
        at += chunk.length;
      }
    } finally {
      await this.release(file);
    }
  }

  /** Creates a file with this content and waits until it is in the bucket. */
  async put(path: string, bytes: string | Uint8Array): Promise<void> {
    const file = await this.create(path);
    await this.write(file, 0, bytes);
    await this.fsync(file);
    await this.release(file);
  }

  /** How often requests of a kind were made. */
  requests(operation: string): number {
    return this.backend.mounted.services.metrics.snapshot()[`requests{${operation}}`] ?? 0;
  }
}

const folders: string[] = [];

/** A folder that is removed when the process ends. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'virtiofs-kit-s3-'));
  folders.push(folder);
  return folder;
}

export async function removeFolders(): Promise<void> {
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true });
}

/** Bytes that are the same in every run. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed;
  for (let i = 0; i + 4 <= length; i += 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes.writeUInt32LE(state, i);
  }
  return bytes;
}

/** Options of a bucket's backend; without `cacheDir`, with an empty cache folder of its own. */
export async function optionsOf(
  bucket: TestBucket,
  options: Record<string, unknown> = {},
): Promise<S3Options> {
  return optionsSchema.parse({
    bucket: bucket.name,
    endpoint: bucket.endpoint,
    pathStyle: true,
    cacheDir: options['cacheDir'] ?? (await temporaryFolder()),
    ...options,
  });
}

/** Mounts a bucket on this host. Options as for {@link optionsOf}. */
export async function mountBucket(
  bucket: TestBucket,
  options: Record<string, unknown> = {},
  settings: Partial<ExportOptions> = {},
): Promise<MountedExport> {
  return MountedExport.open(backendOf(await optionsOf(bucket, options)), { settings });
}
