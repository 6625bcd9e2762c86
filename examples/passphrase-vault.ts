import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { definePlugin, UsageError } from 'virtiofs-kit';
import type { Backend } from 'virtiofs-kit';
import { encrypted, encryptionKeyFrom } from 'virtiofs-kit/wrappers';
import { z } from 'zod';

/*
 * A directory of the host that holds ciphertext only: names and content are encrypted by a key that
 * is made of a passphrase. Its salt lies there, too; it is no secret.
 *
 *     virtiofs-kit mount /mnt --backend ./passphrase-vault.js \
 *       --directory /srv/vault --passphrase-file ~/.vault
 */

const SALT_BYTES = 16;

export async function vault(inner: Backend, passphrase: string, saltFile: string): Promise<Backend> {
  if (!existsSync(saltFile)) writeFileSync(saltFile, randomBytes(SALT_BYTES), { flag: 'wx' });
  const salt = readFileSync(saltFile);
  // A full disk may have cut it when it was made.
  if (salt.length !== SALT_BYTES) throw new UsageError(`${saltFile}: is to have ${SALT_BYTES} bytes`);
  const key = await encryptionKeyFrom(passphrase, salt);
  return encrypted(inner, { key }) as Backend;
}

const below = (directory: string) => ({ type: 'passthrough', sharedDir: directory });

export default definePlugin({
  name: 'vault',
  description: 'a directory of the host that holds ciphertext only',
  options: z.strictObject({
    directory: z.string().describe('where the ciphertext is').meta({ placeholder: 'DIR' }),
    passphraseFile: z
      .string()
      .describe('file whose first line is the passphrase')
      .meta({ placeholder: 'FILE' }),
  }),
  async create({ directory, passphraseFile }, { createBackend }) {
    const [passphrase = ''] = readFileSync(passphraseFile, 'utf8').split('\n');
    if (passphrase === '') throw new UsageError(`passphraseFile ${passphraseFile}: its first line is empty`);
    return vault(await createBackend(below(directory)), passphrase, join(directory, 'passphrase.salt'));
  },
  needs: ({ directory, passphraseFile }) => ({
    paths: [{ path: passphraseFile, write: false }],
    backends: [below(directory)],
  }),
});
