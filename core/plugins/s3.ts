/**
 * Operations of the S3 backend on its cache folders, loaded on first use: the S3 client takes a
 * while to load.
 */
export async function s3Administration(): Promise<
  typeof import('../../backends/s3/service/administration.js')
> {
  return import('../../backends/s3/service/administration.js');
}
