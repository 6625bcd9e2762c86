import { counter, type Metric } from '../../../core/backend/index.js';

/** Counters of one mounted bucket, for `health`, `virtiofs-kit s3 status` and monitoring. */
export class Metrics {
  readonly requests = new Map<string, number>();
  readonly failures = new Map<string, number>();
  /** Milliseconds spent in requests, summed by operation. */
  readonly milliseconds = new Map<string, number>();
  bytesDown = 0;
  bytesUp = 0;
  blockHits = 0;
  blockMisses = 0;
  diskHits = 0;
  diskCorrupt = 0;
  metadataHits = 0;
  metadataMisses = 0;
  uploads = 0;
  conflicts = 0;
  lostLeases = 0;
  contradictions = 0;
  corruptReads = 0;
  skippedKeys = 0;

  /** An attempt of a request begins. */
  request(operation: string): void {
    this.requests.set(operation, (this.requests.get(operation) ?? 0) + 1);
  }

  /** An attempt has ended. */
  took(operation: string, milliseconds: number): void {
    this.milliseconds.set(operation, (this.milliseconds.get(operation) ?? 0) + milliseconds);
  }

  failed(operation: string, kind: string): void {
    const label = `${operation}:${kind}`;
    this.failures.set(label, (this.failures.get(label) ?? 0) + 1);
  }

  /** Attempts that failed and may succeed when they are repeated. */
  get passingFailures(): number {
    let sum = 0;
    for (const [label, count] of this.failures)
      if (/:(?:transient|conflict|expired)$/.test(label)) sum += count;
    return sum;
  }

  /** The counters as monitoring has them. */
  counters(): Metric[] {
    const failures = [...this.failures].map(([label, count]) => {
      const [operation = '', kind = ''] = label.split(':');
      return counter('request_failures', 'Attempts of requests that failed.', count, { operation, kind });
    });
    return [
      ...[...this.requests].map(([operation, count]) =>
        counter('requests', 'Attempts of requests to the server.', count, { operation }),
      ),
      ...[...this.milliseconds].map(([operation, time]) =>
        counter('request_seconds', 'Time that requests took, in seconds.', time / 1000, { operation }),
      ),
      ...failures,
      counter('received_bytes', 'Bytes of content received.', this.bytesDown),
      counter('sent_bytes', 'Bytes of content sent.', this.bytesUp),
      counter('block_hits', 'Blocks found in memory or on disk.', this.blockHits),
      counter('block_misses', 'Blocks asked of the server.', this.blockMisses),
      counter('disk_hits', 'Blocks found on disk.', this.diskHits),
      counter('corrupt_blocks', 'Blocks on disk that were damaged, and fetched again.', this.diskCorrupt),
      counter(
        'corrupt_reads',
        'Objects whose bytes were not those of their checksum, read again.',
        this.corruptReads,
      ),
      counter('metadata_hits', 'Names answered from what is known.', this.metadataHits),
      counter('metadata_misses', 'Names asked of the server.', this.metadataMisses),
      counter('uploads', 'Files uploaded.', this.uploads),
      counter('lost_races', 'Files that another writer had changed meanwhile.', this.conflicts),
      counter('lost_leases', 'Times that others may have taken what guests had locked.', this.lostLeases),
      counter(
        'contradictions',
        'Refusals for a condition that held: the server keeps conditions otherwise than was found out.',
        this.contradictions,
      ),
      counter('skipped_keys', 'Keys that cannot be file names, seen in listings.', this.skippedKeys),
    ];
  }

  /** All counters by name: `requests{operation}` and plain ones. */
  snapshot(): Record<string, number> {
    const counters: Record<string, number> = {};
    for (const [operation, count] of this.requests) counters[`requests{${operation}}`] = count;
    for (const [operation, time] of this.milliseconds) {
      counters[`request_milliseconds{${operation}}`] = Math.round(time);
    }
    for (const [label, count] of this.failures) counters[`failures{${label}}`] = count;
    for (const [name, value] of Object.entries(this)) {
      if (typeof value === 'number') counters[name] = value;
    }
    return counters;
  }
}
