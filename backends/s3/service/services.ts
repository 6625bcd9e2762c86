import type { Logger } from '../../../core/backend/index.js';
import type { Defaults } from '../objects/attributes.js';
import type { Bucket } from '../client/bucket.js';
import type { PendingDeletes } from '../write/pending-deletes.js';
import type { KeyMap } from '../objects/keys.js';
import type { Metrics } from '../client/metrics.js';
import type { OwnLease } from '../leases/own-lease.js';
import type { S3Options } from '../options.js';
import type { Reader } from '../read/reader.js';

/** Keeps uploads from coming after others have got the locks under which they were written. */
export interface UploadFence {
  /**
   * For an upload that begins now.
   * @returns the lease under which it goes; undefined where nothing is held.
   * @throws S3Failure of code LeaseLost where nothing may be uploaded.
   */
  ticket(): OwnLease | undefined;
}

/** What the parts of a mounted bucket share. */
export interface Services {
  readonly options: S3Options;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly bucket: Bucket;
  readonly keys: KeyMap;
  readonly reader: Reader;
  readonly pendingDeletes: PendingDeletes;
  readonly defaults: Defaults;
  /** Absent where mounts of several hosts promise no more than close-to-open. */
  readonly fence?: UploadFence;
}
