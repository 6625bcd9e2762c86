import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { encodeEntry, END, padding, TarType } from '../../core/archive/tar.js';

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

export interface LayoutOptions {
  /** The configuration of commands. */
  readonly config?: object;
  /** What is done to the layout at the end. */
  readonly damage?: (root: string) => void;
  /** How layers are compressed. Default: gzip. */
  readonly pack?: (bytes: Buffer) => Buffer;
}

/** Makes an OCI layout of layers, in a folder of its own. @returns its path. */
export function layout(
  folder: string,
  layers: readonly Buffer[],
  { config = {}, damage = () => {}, pack = gzipSync }: LayoutOptions = {},
): string {
  const root = mkdtempSync(join(folder, 'layout-'));
  mkdirSync(join(root, 'blobs/sha256'), { recursive: true });
  const add = (bytes: Buffer): { digest: string; size: number } => {
    const digest = sha256(bytes);
    writeFileSync(join(root, 'blobs', digest.replace(':', '/')), bytes);
    return { digest, size: bytes.length };
  };
  const document = { os: 'linux', config, rootfs: { type: 'layers', diff_ids: layers.map(sha256) } };
  const manifest = {
    schemaVersion: 2,
    config: add(Buffer.from(JSON.stringify(document))),
    layers: layers.map((layer) => add(pack(layer))),
  };
  const index = { schemaVersion: 2, manifests: [add(Buffer.from(JSON.stringify(manifest)))] };
  writeFileSync(join(root, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  writeFileSync(join(root, 'index.json'), JSON.stringify(index));
  damage(root);
  return root;
}
