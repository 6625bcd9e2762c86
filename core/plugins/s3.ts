/**
 * Loads the S3 backend's operations on its cache folders. They are loaded on first use, since the
 * S3 client takes a while to load.
 */
export async function s3Administration(): Promise<
  typeof import('../../backends/s3/service/administration.js')
> {
  return import('../../backends/s3/service/administration.js');
}
