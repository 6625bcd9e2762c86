import type { S3Client } from '@aws-sdk/client-s3';
import { UsageError } from '../../../core/backend/index.js';
import type { Logger } from '../../../core/backend/index.js';
import { Semaphore } from './concurrency.js';
import { Deadline } from './deadline.js';
import { classify, S3Failure } from './failure.js';
import { type Access, accessTo } from './access.js';
import { Bandwidth, type Limits } from './bandwidth.js';
import { endpointOf } from './endpoint.js';
import type { Pace, Sending } from './http.js';
import type { Metrics } from './metrics.js';
import { proxyTo } from './proxies.js';
import { type RetryPauses, retryPauseMs } from './retry-pause.js';
import type { S3Options } from '../options.js';
import type { SignedRequests } from './signed-requests.js';

/** Between the attempts of a request. */
const PAUSES: RetryPauses = { firstMs: 100, maxMs: 5_000 };
/**
 * Slowest transfer that counts as progress, in bytes per millisecond. A request that carries data
 * gets that much more time.
 */
const SLOWEST_BYTES_PER_MS = 256;

/** Operations that change nothing. */
const READS = /^(?:Head|Get|List)/;
/**
 * Milliseconds for which a request that changes something goes on after the guest has given it up,
 * so that it does not become of it what nobody was told.
 */
const GRACE_MS = 2_000;

/** Milliseconds for which an attempt whose time is up may still end by itself. */
const LEFT_ALONE_MS = 1_000;

/** One attempt of a request. */
export interface Attempt extends Sending {
  readonly client: S3Client;
  readonly signed: SignedRequests;
  /**
   * To be called before each piece of a body goes, with its bytes. It goes when the promise has
   * settled. Undefined where nothing limits that.
   */
  readonly pace: Pace | undefined;
  /**
   * Call it when data has arrived, with its bytes: the attempt's time starts again.
   * @returns a promise where no more may come before it has settled.
   */
  progress(count: number): Promise<void> | undefined;
}

/**
 * Sends requests. It limits those in flight, gives each attempt a time-out (the SDK sets none),
 * repeats failed ones with jittered back-off until the operation's deadline, and gets new
 * credentials when the old ones have expired.
 */
export class Requests {
  readonly #options: S3Options;
  readonly #log: Logger;
  readonly #metrics: Metrics;
  readonly #slots: Semaphore;
  readonly limits: Limits;
  readonly #controllers: AbortController[] = [];
  #access: Access;
  #closed = false;

  /** @throws UsageError if a variable of the environment is none of what it must be. */
  constructor(options: S3Options, log: Logger, metrics: Metrics) {
    this.#options = options;
    this.#log = log;
    this.#metrics = metrics;
    this.#slots = new Semaphore(options.requests);
    const { uploadLimit, downloadLimit } = options;
    this.limits = { up: Bandwidth.of(uploadLimit), down: Bandwidth.of(downloadLimit) };
    // Said now: a request that finds it out would be repeated, as if it were to pass.
    const endpoint = endpointOf(options);
    if (endpoint !== undefined && !URL.canParse(endpoint))
      throw new UsageError(`endpoint ${endpoint}: is no URL, such as https://s3.example`);
    proxyTo(endpoint);
    this.#access = accessTo(options);
  }

  /**
   * @param operation name for metrics and logs
   * @param bytes that the request carries
   * @param isRepeated whether it is, where it failed for what may pass
   * @throws S3Failure, with code `Deadline` when the time was up; FsError EINTR when the guest gave
   * up.
   */
  async send<T>(
    operation: string,
    deadline: Deadline,
    bytes: number,
    attempt: (attempt: Attempt) => Promise<T>,
    isRepeated = true,
  ): Promise<T> {
    for (let number = 1; ; number++) {
      deadline.check();
      const turn = this.#slots.enter();
      if (turn !== undefined) await turn;
      const access = this.#access;
      let failure: S3Failure;
      try {
        return await this.#attempt(operation, deadline, bytes, attempt);
      } catch (error) {
        failure = classify(error);
      } finally {
        this.#slots.leave();
      }
      this.#metrics.failed(operation, failure.kind);
      deadline.check();
      if (!failure.transient || (failure.kind === 'expired' && number > 3)) throw failure;
      // Of requests that find out together, one gets new credentials.
      if (failure.kind === 'expired' && access === this.#access) {
        access.signed.close();
        this.#access = accessTo(this.#options);
      }
      if (this.#closed) throw new S3Failure('transient', 0, 'Closed', failure);
      if (!isRepeated) throw failure;
      const pauseMs = retryPauseMs(PAUSES, number);
      if (deadline.remaining <= pauseMs)
        throw new S3Failure('transient', failure.status, 'Deadline', failure);
      this.#log.debug({ operation, attempt: number, error: failure.message }, 'S3 request failed, repeated');
      await deadline.sleep(pauseMs);
    }
  }

  /**
   * Waits until there are credentials, where somebody has to be asked for them.
   * @throws S3Failure, with code `CredentialsTimeout` when the time was up.
   */
  async findCredentials(deadline: Deadline): Promise<void> {
    try {
      await deadline.wait(this.#access.credentials());
    } catch (error) {
      if (deadline.remaining === 0) throw new S3Failure('expired', 0, 'CredentialsTimeout');
      throw classify(error);
    }
  }

  async #attempt<T>(
    operation: string,
    deadline: Deadline,
    bytes: number,
    attempt: (attempt: Attempt) => Promise<T>,
  ): Promise<T> {
    const allowed = this.#options.requestTimeout * 1000 + bytes / SLOWEST_BYTES_PER_MS;
    const trial = new Trial(this.#access, this.#controllers, this.limits);
    const graceMs = READS.test(operation) ? 0 : GRACE_MS;
    trial.begin(Math.min(allowed, deadline.remaining), deadline.signal, graceMs);
    const started = performance.now();
    this.#metrics.request(operation);
    try {
      return await trial.until(attempt(trial));
    } catch (error) {
      throw trial.expired ?? error;
    } finally {
      trial.end(deadline.signal);
      this.#metrics.took(operation, performance.now() - started);
    }
  }

  close(): void {
    this.#closed = true;
    this.#access.close();
  }
}

/** An attempt under way. */
class Trial implements Attempt {
  readonly signed: SignedRequests;
  readonly #client: () => S3Client;
  readonly #controllers: AbortController[];
  readonly #controller: AbortController;
  #reusable = true;
  #timer: NodeJS.Timeout | undefined;
  #grace: NodeJS.Timeout | undefined;
  #graceMs = 0;
  #allowedMs = 0;
  #isOver = false;
  #leave: (reason: unknown) => void = () => undefined;
  readonly #limits: Limits;
  readonly pace: Pace | undefined;

  /** @param controllers a pool of unused ones: creating one costs as much as signing a request. */
  constructor({ client, signed }: Access, controllers: AbortController[], limits: Limits) {
    this.#client = client;
    this.signed = signed;
    this.#controllers = controllers;
    this.#limits = limits;
    const { up } = limits;
    this.pace = up === undefined ? undefined : (count) => this.#hold(up.take(count));
    this.#controller = controllers.pop() ?? new AbortController();
  }

  /**
   * Using the SDK's client makes the abort controller unfit for the pool: the SDK may listen to its
   * signal after the request has ended.
   */
  get client(): S3Client {
    this.#reusable = false;
    return this.#client();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The failure if the attempt's time was up; otherwise undefined. */
  get expired(): S3Failure | undefined {
    const reason: unknown = this.#controller.signal.reason;
    return reason instanceof S3Failure ? reason : undefined;
  }

  /**
   * What does not end by the signal, such as a source of credentials that does not answer, is left
   * alone.
   */
  until<T>(work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      work.then(resolve, reject);
      this.#leave = reject;
    });
  }

  begin(allowed: number, signal: AbortSignal | undefined, graceMs: number): void {
    this.#graceMs = graceMs;
    this.#allowedMs = allowed;
    this.#timer = setTimeout(this.#expire, allowed);
    signal?.addEventListener('abort', this.#giveUp);
  }

  progress(count: number): Promise<void> | undefined {
    this.#timer?.refresh();
    return this.#hold(this.#limits.down?.take(count));
  }

  /** The time that a limit of our own takes is none of the attempt's. */
  #hold(wait: Promise<void> | undefined): Promise<void> | undefined {
    if (wait === undefined) return undefined;
    clearTimeout(this.#timer);
    return this.#goOn(wait);
  }

  async #goOn(wait: Promise<void>): Promise<void> {
    await wait;
    if (!this.#isOver) this.#timer = setTimeout(this.#expire, this.#allowedMs);
  }

  end(signal: AbortSignal | undefined): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#grace);
    signal?.removeEventListener('abort', this.#giveUp);
    if (this.#reusable && !this.#controller.signal.aborted) this.#controllers.push(this.#controller);
  }

  readonly #expire = (): void => {
    const failure = new S3Failure('transient', 0, 'RequestTimeout');
    this.#controller.abort(failure);
    clearTimeout(this.#grace);
    this.#grace = setTimeout(() => this.#leave(failure), LEFT_ALONE_MS);
  };
  readonly #giveUp = (): void => {
    if (this.#graceMs === 0) this.#controller.abort();
    else this.#grace = setTimeout(() => this.#controller.abort(), this.#graceMs);
  };
}
