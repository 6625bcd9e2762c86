import { after, before } from 'node:test';
import { Proxy } from './proxy.js';
import { removeFolders, TestBucket } from './support.js';

/** A bucket of its own for a suite, and a proxy in front of it. Both can be used in its tests. */
export interface ProxiedBucket {
  readonly bucket: TestBucket;
  readonly proxy: Proxy;
}

/** To be called in `describe`: begins and ends with the suite, with the folders of its mounts. */
export function proxiedBucket(): ProxiedBucket {
  let begun: ProxiedBucket | undefined;
  before(async () => {
    const bucket = await TestBucket.create();
    begun = { bucket, proxy: await Proxy.start(bucket.endpoint) };
  });
  after(async () => {
    await begun?.proxy.close();
    await removeFolders();
  });
  return {
    get bucket() {
      return begun!.bucket;
    },
    get proxy() {
      return begun!.proxy;
    },
  };
}
