import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { encodeEntry, END, padding, TarType } from '../../core/archive/tar.js';
import type { Logger } from '../../core/backend/index.js';
import type { Image } from '../../core/sandbox/image/image.js';

const silent = (): void => {};
export const LOG: Logger = { debug: silent, info: silent, warn: silent, error: silent };

/** A member of an archive; a file unless `type` says otherwise. */
export interface Member {
  readonly type?: string;
  readonly content?: string | Buffer;
  readonly mode?: number;
  readonly link?: string;
}

/** A tar archive, of members by their paths. */
export function tar(members: Readonly<Record<string, Member>>): Buffer {
  const parts: Uint8Array[] = [];
  for (const [path, { type = TarType.FILE, content = '', mode = 0o644, link = '' }] of Object.entries(
    members,
  )) {
    const bytes = Buffer.from(content);
    const times = {
      mtime: { seconds: 1, nanoseconds: 0 },
      major: 0,
      minor: 0,
      xattrs: new Map<string, Uint8Array>(),
    };
    parts.push(
      encodeEntry({ path, type, mode, uid: 0, gid: 0, size: bytes.length, linkPath: link, ...times }),
      bytes,
      padding(bytes.length),
    );
  }
  return Buffer.concat([...parts, END]);
}

export const dir = { type: TarType.DIRECTORY, mode: 0o755 };

export function sha256(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

type Pack = (bytes: Buffer) => Buffer;

/** Of media types, by what is compressed begins with. */
const SUFFIXES: Readonly<Record<number, string>> = { 0x1f: '+gzip', 0x28: '+zstd' };

export interface LayoutOptions {
  /** The configuration of commands. */
  readonly config?: object;
  /** What machines it is for, as Go names them. Default: not said. */
  readonly architecture?: string;
  /** What is done to the layout at the end. */
  readonly damage?: (root: string) => void;
  /** How layers are compressed, several kinds in turn. Default: gzip. */
  readonly pack?: Pack | readonly Pack[];
}

/** Makes an OCI layout of layers, in a folder of its own. @returns its path. */
export function layout(
  folder: string,
  layers: readonly Buffer[],
  { config = {}, architecture, damage = () => {}, pack = gzipSync }: LayoutOptions = {},
): string {
  const root = mkdtempSync(join(folder, 'layout-'));
  mkdirSync(join(root, 'blobs/sha256'), { recursive: true });
  const add = (type: string, bytes: Buffer): object => {
    const digest = sha256(bytes);
    writeFileSync(join(root, 'blobs', digest.replace(':', '/')), bytes);
    return { mediaType: `application/vnd.oci.image.${type}`, digest, size: bytes.length };
  };
  const rootfs = { type: 'layers', diff_ids: layers.map(sha256) };
  const document = { os: 'linux', ...(architecture === undefined ? {} : { architecture }), config, rootfs };
  const manifest = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.manifest.v1+json',
    config: add('config.v1+json', Buffer.from(JSON.stringify(document))),
    layers: layers.map((layer, index) => {
      const kinds = typeof pack === 'function' ? [pack] : pack;
      const bytes = kinds[index % kinds.length]!(layer);
      return add(`layer.v1.tar${SUFFIXES[bytes[0] ?? 0] ?? ''}`, bytes);
    }),
  };
  const index = {
    schemaVersion: 2,
    manifests: [add('manifest.v1+json', Buffer.from(JSON.stringify(manifest)))],
  };
  writeFileSync(join(root, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(root, 'index.json'), JSON.stringify(index));
  damage(root);
  return root;
}

/** The files of an image, as `toJSON` of a volume has them. */
export async function filesOf(image: Image): Promise<Record<string, unknown>> {
  const snapshot = await image.load(LOG);
  const volume = snapshot.fork();
  try {
    return volume.toJSON();
  } finally {
    volume.discard();
    snapshot.discard();
  }
}
