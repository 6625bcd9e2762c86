import type { Logger } from '../../../core/backend/index.js';
import type { Defaults } from '../objects/attributes.js';
import type { Bucket } from '../client/bucket.js';
import type { PendingDeletes } from '../write/pending-deletes.js';
import type { KeyMap } from '../objects/keys.js';
import type { Metrics } from '../client/metrics.js';
import type { S3Options } from '../options.js';
import type { Reader } from '../read/reader.js';

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
}
