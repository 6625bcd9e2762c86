import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { gauge, UsageError } from '../../../core/backend/index.js';
import { memoryLimit } from '../../../core/backend/limits.js';
import type { Logger, Metric } from '../../../core/backend/index.js';
import { Bucket } from '../client/bucket.js';
import { readLearned, writeLearned } from '../client/learned.js';
import { learnWhenNeeded, sweep, tryWriting } from '../client/capabilities.js';
import { cannedAcl } from '../client/carried.js';
import { CommandSocket, type CommandRequest } from '../../../core/control/index.js';
import { Deadline } from '../client/deadline.js';
import { DiskCache } from '../read/disk-cache.js';
import { DiskSpace } from '../journal/disk-space.js';
import { S3Failure } from '../client/failure.js';
import { type RetryPauses, retryPauseMs } from '../client/retry-pause.js';
import { explained, isLasting, mayPass } from './start-errors.js';
import { Files } from '../write/files.js';
import { PendingDeletes } from '../write/pending-deletes.js';
import { Intents } from '../journal/intents.js';
import { Leases } from '../leases/leases.js';
import { KeyMap } from '../objects/keys.js';
import { Metrics } from '../client/metrics.js';
import { NameLookup } from '../tree/name-lookup.js';
import type { RemoteObject } from '../objects/attributes.js';
import { pathOf } from '../tree/nodes.js';
import type { S3Options } from '../options.js';
import { Reader } from '../read/reader.js';
import { recover } from '../journal/recovery.js';
import { Renames } from '../tree/rename.js';
import { Requests } from '../client/requests.js';
import type { Services } from './services.js';
import { Traces } from '../tree/last-seen.js';
import { Tree } from '../tree/tree.js';
import { Watches } from '../tree/watches.js';

/** Seconds that unmounting waits for uploads. What is not uploaded by then stays in the journal. */
const FLUSH_TIMEOUT_SECONDS = 120;
/** Seconds that unmounting waits for deletions that nobody else waits for. */
const RENAMED_SECONDS = 5;
/** Seconds for finding the bucket, and for trying to write, at start. */
const START_TIMEOUT_SECONDS = 60;
/** Seconds for the request that makes a bucket. */
const CREATION_SECONDS = 4;
/** Milliseconds for which a start repeats what fails for a cause that lasts. */
const LASTING_MS = 2_000;
/** Milliseconds after which a start that goes on waiting says for what. */
const SILENCE_MS = 4_000;
/** Between requests of a start. */
const PAUSES: RetryPauses = { firstMs: 100, maxMs: 5_000 };

/** Milliseconds for which an ordinary start relies on what a mount before has found out. */
const LEARNED_MAX_AGE_MS = 86_400_000;

/** Bytes of file data in memory where no option says how many, at most and at least. */
const MEMORY_CACHE_BYTES = 64 * 2 ** 20;
const MEMORY_CACHE_LEAST_BYTES = 4 * 2 ** 20;

/**
 * Bytes of file data that are held in memory.
 * @param limit on the memory of this process, in bytes: that of its cgroup, or of the machine.
 */
export function memoryCacheOf(
  { memoryCache }: Pick<S3Options, 'memoryCache'>,
  limit = memoryLimit(),
): number {
  const share = Math.min(MEMORY_CACHE_BYTES, Math.floor(limit / 4));
  return memoryCache ?? Math.max(MEMORY_CACHE_LEAST_BYTES, share);
}

const ASIDES = 'changes are kept aside that lost a race or are damaged; see "virtiofs-kit s3 status"';

/** A mounted bucket: creates its parts, starts and stops them. */
export class MountedBucket {
  readonly services: Services;
  readonly nameLookup: NameLookup;
  readonly tree: Tree;
  readonly files: Files;
  readonly renames: Renames;
  readonly watches: Watches;
  readonly intents: Intents;
  /** Absent where mounts of several hosts promise no more than close-to-open. */
  readonly leases: Leases | undefined;
  readonly folder: string;
  readonly #requests: Requests;
  readonly #disk: DiskCache | undefined;
  #control: CommandSocket | undefined;
  /** Until what was written at the start, to see whether that is allowed, is gone. */
  #tried: Promise<void> | undefined;
  /** Milliseconds of `performance.now()`: what was heard of the bucket before is not believed. */
  refreshedAt = Number.NEGATIVE_INFINITY;

  private constructor(options: S3Options, log: Logger) {
    const metrics = new Metrics();
    this.folder = options.cacheDir ?? defaultFolder(options);
    this.#requests = new Requests(options, log, metrics);
    const bucket = new Bucket(options, this.#requests, metrics, log);
    const blocks = join(this.folder, 'blocks');
    mkdirSync(this.folder, { recursive: true, mode: 0o700 });
    const space = DiskSpace.of(this.folder);
    const { diskCache } = options;
    this.#disk = diskCache === 0 ? undefined : new DiskCache(blocks, diskCache, space, log, metrics);
    const { operationTimeout: timeoutSeconds } = options;
    const readAhead = Math.min(options.readAhead, this.#requests.limits.down?.ahead ?? Infinity);
    const limits = { memory: memoryCacheOf(options), readAhead, timeoutSeconds };
    const reader = new Reader(bucket, this.#disk, metrics, log, limits, options.verify === 'whole');
    const { uid, gid, fileMode, directoryMode } = options;
    const defaults = { uid, gid, fileMode, directoryMode };
    const keys = new KeyMap(options.prefix);
    const notes = join(this.folder, 'intents');
    const gathers = options.removals === 'gathered';
    const pendingDeletes = new PendingDeletes(bucket, log, timeoutSeconds, notes, gathers);
    const services = { options, log, metrics, bucket, keys, reader, pendingDeletes, defaults };
    this.leases =
      options.sharing === 'leases' && !options.readOnly
        ? new Leases(services, {
            file: join(this.folder, 'lease.json'),
            flush: async () => {
              await this.files.flush();
              await pendingDeletes.flush(Deadline.after(timeoutSeconds));
            },
            abandon: () => this.files.abandon(),
          })
        : undefined;
    this.services = this.leases === undefined ? services : { ...services, fence: this.leases };
    this.nameLookup = new NameLookup(this.services);
    this.tree = new Tree(this.services, this.nameLookup);
    this.intents = new Intents(join(this.folder, 'intents'));
    this.files = new Files(this.services, this.folder, this.intents, space, {
      clean: (node) => this.tree.release(node),
      changed: (node) => this.tree.changed(node),
      free: async (bytes) => (await this.#disk?.free(bytes)) ?? false,
    });
    this.watches = new Watches(this.services, this.nameLookup);
    this.renames = new Renames(this.services, this.nameLookup, this.tree, this.files, this.intents);
  }

  /**
   * Starts service on a bucket and a cache folder, and resumes what an earlier process left in its
   * journal.
   * @param traces of the nodes that guests know, where that process was killed. They wait.
   * @throws UsageError if the bucket or the folder cannot be used.
   */
  static async start(options: S3Options, log: Logger, traces?: Traces): Promise<MountedBucket> {
    const mounted = new MountedBucket(options, log);
    try {
      await mounted.#start(traces);
    } catch (error) {
      await mounted.#control?.close();
      mounted.#requests.close();
      throw explained(error, options);
    }
    return mounted;
  }

  async #start(traces: Traces | undefined): Promise<void> {
    const { options, log, bucket, keys, metrics } = this.services;
    await this.files.losses.start();
    const { asides } = this.files.losses;
    if (asides > 0) log.warn({ asides, folder: this.folder }, ASIDES);
    for (const name of ['staging', 'intents']) {
      await mkdir(join(this.folder, name), { recursive: true, mode: 0o700 });
    }
    this.#listen(log);
    const deadline = Deadline.after(START_TIMEOUT_SECONDS);
    if (options.bucket.startsWith('arn:') && options.endpoint !== undefined) {
      throw new UsageError(`bucket ${options.bucket}: an ARN names its server; leave --endpoint out`);
    }
    const isNext = traces !== undefined;
    const learned = await readLearned(this.#learnedPath, options, isNext ? Infinity : LEARNED_MAX_AGE_MS);
    if (learned !== undefined) bucket.adopt(learned);
    const probes = keys.reserved('probe');
    // Guests of a process before wait. Whether the bucket answers is found out by what they ask.
    const left = isNext ? [] : await this.#exists(probes, deadline);
    if (!options.readOnly) {
      learnWhenNeeded(bucket, probes, log, metrics, () => this.#keepLearned());
      try {
        await sweep(bucket, left, deadline);
        if (!isNext || options.acl !== undefined) {
          const remove = await tryWriting(bucket, probes, deadline, cannedAcl(options));
          // Nobody waits for it. The next start removes what is left.
          this.#tried = remove().catch(() => undefined);
        }
      } catch (error) {
        throw explained(error, options, true);
      }
    }
    await this.#disk?.start();
    const { leases } = this;
    const lease = await leases?.start(deadline);
    if (!options.readOnly)
      await recover(this, this.folder, traces ?? new Traces(new Map()), lease === 'lost');
    else await traces?.settle(this, new Map());
    if (traces === undefined) leases?.settle();
  }

  /** Keeps what was found out of the server for later mounts. */
  async #keepLearned(): Promise<void> {
    const { options, log, bucket } = this.services;
    await writeLearned(this.#learnedPath, options, bucket.learned!).catch((error: unknown) =>
      log.warn({ error: String(error) }, 'what was found out of the server could not be kept'),
    );
  }

  get #learnedPath(): string {
    return join(this.folder, 'server.json');
  }

  /**
   * Opens the socket by which `virtiofs-kit s3` asks this process. It is also the folder's lock:
   * while a process listens there, no other may use the folder.
   */
  #listen(log: Logger): void {
    const path = controlPath(this.folder);
    try {
      this.#control = CommandSocket.listen(path, (request) => this.#answer(request), log);
    } catch (error) {
      throw new UsageError(`cacheDir ${this.folder}: ${(error as Error).message}`, { cause: error });
    }
    if (this.#control !== undefined) return;
    throw new UsageError(`cacheDir ${this.folder}: another process has it mounted; give each mount its own`);
  }

  async #answer({ command }: CommandRequest): Promise<string[]> {
    if (command !== 'status' && command !== 'flush' && command !== 'refresh')
      throw new UsageError(`no such command: ${command}`);
    if (command === 'refresh') this.refreshedAt = performance.now();
    await this.files.losses.count();
    if (command === 'flush') {
      await this.files.writeback.flush();
      await this.services.pendingDeletes.flush(Deadline.never);
    }
    return [JSON.stringify(this.status(), undefined, 2)];
  }

  /**
   * Asks for a listing: unlike HEAD, it says what is wrong. A server that is slow or busy is given
   * more time than one that refuses.
   * @returns what earlier probes left behind.
   */
  async #exists(key: string, deadline: Deadline): Promise<readonly RemoteObject[]> {
    const { bucket, options, log } = this.services;
    let waitsFor = 'the source of the credentials does not answer yet';
    const told = setTimeout(() => log.warn({ bucket: options.bucket }, waitsFor), SILENCE_MS);
    try {
      await this.#requests.findCredentials(deadline);
      waitsFor = 'the server does not answer yet; check the endpoint and firewalls';
      const started = performance.now();
      for (let number = 1; ; number++) {
        try {
          return (await bucket.list(`${key}-`, '', undefined, 1000, deadline, undefined, false)).objects;
        } catch (error) {
          waitsFor = `not mounted yet: ${(explained(error, options) as Error).message}`;
          const isMissing =
            error instanceof S3Failure && (error.kind === 'missing' || error.kind === 'no-bucket');
          if (isMissing && options.createBucket) break;
          const pauseMs = retryPauseMs(PAUSES, number);
          const isOver = isLasting(error) && performance.now() - started + pauseMs > LASTING_MS;
          if (isOver || !mayPass(error) || deadline.remaining <= pauseMs) throw error;
          await deadline.sleep(pauseMs);
        }
      }
    } finally {
      clearTimeout(told);
    }
    await bucket.create(Deadline.after(CREATION_SECONDS));
    log.info({ bucket: options.bucket }, 'bucket created');
    return [];
  }

  /** The state that `virtiofs-kit s3 status` shows of a running mount. */
  status(): Record<string, unknown> {
    const { writeback } = this.files;
    const { options, metrics, reader, bucket } = this.services;
    return {
      bucket: options.bucket,
      prefix: options.prefix,
      dirtyFiles: writeback.files.map((node) => ({ path: pathOf(node), size: node.size })),
      journalBytes: writeback.bytes,
      asides: this.files.losses.asides,
      memoryBytes: reader.bytes,
      diskCacheBytes: this.#disk?.bytes ?? 0,
      capabilities: bucket.capabilities ?? null,
      leases: this.leases?.counts ?? null,
      metrics: metrics.snapshot(),
    };
  }

  /** The figures that monitoring shows. */
  metrics(): Metric[] {
    const { writeback, losses } = this.files;
    void losses.count();
    return [
      ...this.services.metrics.counters(),
      gauge(
        'asides',
        'Changes that lost a race or are damaged, kept aside until `s3 export --remove`.',
        losses.asides,
      ),
      ...this.#leaseMetrics(),
      gauge('staged_files', 'Files that the bucket does not have yet.', writeback.files.length),
      gauge('staged_bytes', 'Bytes in journals that wait for their upload.', writeback.bytes),
      gauge(
        'oldest_staged_seconds',
        'Age of the oldest change that the bucket does not have.',
        writeback.oldestSeconds,
      ),
      gauge('memory_cache_bytes', 'Bytes of content kept in memory.', this.services.reader.bytes),
      gauge('disk_cache_bytes', 'Bytes of content kept on disk.', this.#disk?.bytes ?? 0),
    ];
  }

  #leaseMetrics(): Metric[] {
    const { leases } = this;
    if (leases === undefined) return [];
    const { held, lost } = leases.counts;
    return [
      gauge('leases', 'Files that are held, so that other mounts keep to locks.', held),
      gauge('lost_files', 'Files whose lease is lost while guests have locks on them.', lost),
    ];
  }

  /**
   * Uploads everything and ends service. What cannot be uploaded stays in the journal, and is
   * logged.
   */
  async stop(): Promise<void> {
    const { log } = this.services;
    const deadline = Deadline.after(FLUSH_TIMEOUT_SECONDS);
    for (const ended of await Promise.allSettled([
      deadline.wait(this.files.writeback.flush()),
      this.services.pendingDeletes.flush(deadline),
      this.services.pendingDeletes.renamedAway('', Deadline.after(RENAMED_SECONDS)),
    ])) {
      if (ended.status === 'fulfilled') continue;
      log.error(
        { error: String(ended.reason), folder: this.folder },
        'not everything could be uploaded or removed: the next start goes on',
      );
    }
    await this.leases?.stop(this.files.writeback.files.length === 0);
    await this.abandon();
  }

  /** Ends service without uploading: the journal keeps what is staged for the next start. */
  async abandon(): Promise<void> {
    this.watches.close();
    await this.leases?.close();
    await this.#tried;
    await Promise.all([this.services.pendingDeletes.close(), this.files.close()]);
    await this.services.reader.close();
    await this.#disk?.close();
    await this.#control?.close();
    this.#requests.close();
  }
}

/** The control socket of the process that has a cache folder mounted. */
export function controlPath(folder: string): string {
  return join(folder, 'control.sock');
}

/** The default cache folder: one for each endpoint, bucket and prefix. */
export function defaultFolder({
  bucket,
  prefix,
  endpoint,
}: Pick<S3Options, 'bucket' | 'prefix' | 'endpoint'>): string {
  const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
  const hash = createHash('sha1')
    .update(`${endpoint ?? ''}\0${bucket}\0${prefix}`)
    .digest('hex')
    .slice(0, 12);
  return join(cache, 'virtiofs-kit', 's3', `${bucket}-${hash}`);
}
