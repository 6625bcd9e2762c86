import { posix } from 'node:path';
import * as z from 'zod';
import { UsageError } from '../../backend/index.js';

/*
 * The JSON of images: OCI image specification 1.1 (image-layout.md, image-index.md, manifest.md,
 * config.md), and the `manifest.json` of `docker save`. All of it is from others, and checked.
 */

/** Names a blob by its content; other algorithms are refused. */
export const digest = z.string().regex(/^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$/);

const descriptor = z.looseObject({
  mediaType: z.string().default(''),
  digest,
  size: z.number().int().min(0),
  annotations: z.record(z.string(), z.string()).optional(),
  platform: z.looseObject({ architecture: z.string(), os: z.string() }).optional(),
});
export type Descriptor = z.output<typeof descriptor>;

/** `index.json`, and an image index. */
export const indexSchema = z.looseObject({ manifests: z.array(descriptor).max(10_000) });

export const manifestSchema = z.looseObject({ config: descriptor, layers: z.array(descriptor).max(1000) });

/** What both kinds of archive call the names of layers' files. */
export const dockerManifestSchema = z
  .array(
    z.looseObject({
      Config: z.string(),
      RepoTags: z.array(z.string()).nullish(),
      Layers: z.array(z.string()).max(1000),
    }),
  )
  .min(1);

const text = z.string().refine((value) => !value.includes('\0'), 'has a NUL');

export const configSchema = z.looseObject({
  architecture: z.string().optional(),
  os: z.string().optional(),
  config: z
    .looseObject({
      User: text.nullish(),
      Env: z.array(text).nullish(),
      Entrypoint: z.array(text).nullish(),
      Cmd: z.array(text).nullish(),
      WorkingDir: text.nullish(),
    })
    .nullish(),
  rootfs: z.looseObject({ type: z.string().optional(), diff_ids: z.array(digest).max(1000) }),
  history: z.array(z.looseObject({})).optional(),
});
export type ConfigDocument = z.output<typeof configSchema>;

/** What an image says of its commands. */
export interface ImageConfig {
  readonly env: Readonly<Record<string, string>>;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** Undefined: root. */
  readonly user: string | undefined;
  /** An absolute path. Undefined: `/`. */
  readonly workingDir: string | undefined;
}

/** Reads a document. @throws UsageError for one that is none, or not as it must be. */
export function parse<T extends z.ZodType>(schema: T, bytes: Buffer, name: string): z.output<T> {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch {
    throw new UsageError(`${name}: no JSON`);
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new UsageError(`${name}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? 'wrong'}`);
}

/** What a configuration says of commands. */
export function imageConfigOf({ config }: ConfigDocument): ImageConfig {
  const { User, Env, Entrypoint, Cmd, WorkingDir } = config ?? {};
  const pairs = (Env ?? []).map((line) => /^([^=]+)=([^]*)$/.exec(line)).filter((match) => match !== null);
  return {
    env: Object.fromEntries(pairs.map(([, name, value]) => [name, value])),
    entrypoint: Entrypoint ?? [],
    cmd: Cmd ?? [],
    user: User === '' || User === null ? undefined : User,
    workingDir:
      WorkingDir === undefined || WorkingDir === null || WorkingDir === ''
        ? undefined
        : posix.join('/', WorkingDir),
  };
}
