import { readFileSync } from 'node:fs';
import { definePlugin } from 'virtiofs-kit';
import type { Backend } from 'virtiofs-kit';
import { fromWebdav } from 'virtiofs-kit/adapters';
import { cached } from 'virtiofs-kit/wrappers';
import { z } from 'zod';

/*
 * A directory of a WebDAV server (Nextcloud, Apache, nginx), to read and to write. What was read is
 * kept in memory for some seconds.
 *
 *     virtiofs-kit mount /mnt --backend ./webdav-directory.js \
 *       --url https://cloud.example.org/remote.php/dav/files/me/ --credentials ~/.webdav
 */

export default definePlugin({
  name: 'webdav',
  description: 'a directory of a WebDAV server',
  options: z.strictObject({
    url: z.url().describe('address of the directory').meta({ placeholder: 'URL' }),
    credentials: z
      .string()
      .optional()
      .describe('file whose first line is NAME:PASSWORD')
      .meta({ placeholder: 'FILE' }),
    seconds: z.number().min(0).default(5).describe('seconds for which what was read counts'),
  }),
  create({ url, credentials, seconds }) {
    const [line = ''] = credentials === undefined ? [] : readFileSync(credentials, 'utf8').split('\n');
    const authorization = `Basic ${Buffer.from(line).toString('base64')}`;
    const headers = credentials === undefined ? {} : { authorization };
    return cached(fromWebdav(url, { headers, isQuiet: true }), {
      names: seconds,
      attributes: seconds,
    }) as Backend;
  },
  needs: ({ credentials }) => ({
    paths: credentials === undefined ? [] : [{ path: credentials, write: false }],
    network: true,
  }),
});
