import * as z from 'zod';
import { logSchema } from '../../plugins/options/config-schema.js';

const text = z.string();
const texts = z.array(text);
const header = z.record(text, text);
const number = z.number();
const port = number.int();

/** A sandbox to start, as JSON: all paths of this host are absolute. */
export const startSchema = z.strictObject({
  root: text.optional(),
  image: text.optional(),
  mounts: z.record(
    text,
    z.strictObject({ source: text.or(z.looseObject({ type: text })), readOnly: z.boolean().optional() }),
  ),
  hide: texts,
  deny: texts,
  redirect: header,
  readOnly: texts,
  audit: text.optional(),
  hideSecrets: z.boolean(),
  network: z
    .strictObject({ allow: texts, internal: z.boolean(), headers: z.record(text, header) })
    .optional(),
  env: header,
  user: text.optional(),
  cwd: text.optional(),
  memory: number,
  cpus: number,
  size: number.optional(),
  files: number.optional(),
  timeout: number.optional(),
  accelerator: z.enum(['kvm', 'tcg', 'uml']).optional(),
  machine: z.enum(['q35', 'microvm']).optional(),
  kernel: text.optional(),
  qemu: text.optional(),
  append: text.optional(),
  /** Whether the guest's console goes into the log. */
  console: z.boolean(),
  publish: z.array(z.strictObject({ port, hostPort: port })),
  log: logSchema,
});

export type StartOptions = z.output<typeof startSchema>;
