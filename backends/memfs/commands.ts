import { resolve } from 'node:path';
import { defineCommand, UsageError } from '../../core/backend/index.js';
import * as z from 'zod';
import { sizeOption } from './options.js';
import {
  baseNamed,
  checkFree,
  discardSnapshot,
  names,
  register,
  registerSnapshot,
  unregister,
  volumeNamed,
} from './host-api/registry.js';
import { memoryInUse, MemfsVolume } from './host-api/volume.js';

const MIB_BYTES = 1 << 20;

const named = (what: string): z.ZodString => z.string().min(1).describe(what).meta({ placeholder: 'NAME' });

/** Sockets of the forks that were made by these commands, by the fork's name. */
const sockets = new Map<string, string>();

const snapshot = defineCommand({
  kind: 'online',
  name: 'snapshot',
  description: 'keep a volume as it is now, under a name; takes no time that depends on its size',
  options: z.strictObject({
    volume: named('the volume, by the name that its export gave it'),
    as: named("the snapshot's name"),
  }),
  run({ volume, as }) {
    checkFree(as);
    registerSnapshot(as, volumeNamed(volume).snapshot());
    return [`${as}: snapshot of ${volume}`];
  },
});

const fork = defineCommand({
  kind: 'online',
  name: 'fork',
  description:
    'serve a new volume that begins as a volume or a snapshot is, and shares its memory until written',
  options: z.strictObject({
    base: named('volume or snapshot to begin as'),
    as: named("the new volume's name"),
    socketPath: z
      .string()
      .describe("the vhost-user socket to make, in a folder of the daemon's sockets")
      .meta({ placeholder: 'PATH' }),
    tag: z.string().optional().describe("name by which the guest mounts it; default: the volume's name"),
    size: sizeOption
      .optional()
      .describe("most bytes of file content; default: the base's limit")
      .meta({ placeholder: 'SIZE' }),
  }),
  async run({ base, as, socketPath, tag = as, size }, { serve }) {
    checkFree(as);
    const volume = baseNamed(base).fork(size === undefined ? {} : { size });
    const socket = resolve(socketPath);
    volume.backend.onUnmount = () => {
      unregister(as);
      sockets.delete(as);
      volume.discard();
    };
    register(as, volume);
    try {
      await serve(tag, socket, volume.backend);
    } catch (error) {
      unregister(as);
      volume.discard();
      throw error;
    }
    sockets.set(as, socket);
    return [`${as}: fork of ${base}, tag ${tag} on ${socket}`];
  },
});

const discard = defineCommand({
  kind: 'online',
  name: 'discard',
  description: 'end a fork and its guest’s connection, or give up a snapshot; their memory goes back',
  options: z.strictObject({ name: named('the fork or snapshot') }),
  async run({ name }, { stop }) {
    const socket = sockets.get(name);
    if (socket !== undefined && (await stop(socket))) return [`${name}: discarded`];
    if (discardSnapshot(name)) return [`${name}: discarded`];
    throw new UsageError(`memfs: ${name}: no such fork or snapshot; see memfs list`);
  },
});

const MARKS = { added: 'A', removed: 'D', changed: 'M' } as const;

const changes = defineCommand({
  kind: 'online',
  name: 'changes',
  description: 'show what differs in a fork from what it began as: A added, M changed, D removed',
  options: z.strictObject({ volume: named('the fork') }),
  run: ({ volume }) =>
    Array.from(volumeNamed(volume).changes(), ({ kind, path }) => `${MARKS[kind]} ${path}`),
});

const save = defineCommand({
  kind: 'online',
  name: 'save',
  description: 'write a volume as it is now into an archive, while guests go on',
  options: z.strictObject({
    volume: named('the volume'),
    file: z
      .string()
      .describe("archive to write, gzipped if it ends in gz; in a folder that the daemon's options name")
      .meta({ placeholder: 'FILE' }),
  }),
  async run({ volume, file }) {
    const path = resolve(file);
    await volumeNamed(volume).save(path);
    return [`${volume}: saved to ${path}`];
  },
});

const list = defineCommand({
  kind: 'online',
  name: 'list',
  description: 'show volumes and snapshots that have a name, and the memory that all take',
  options: z.strictObject({}),
  run() {
    const lines = names().map(([name, what]) => {
      if (!(what instanceof MemfsVolume)) return `${name}: snapshot`;
      const { pages, inodes } = what.tree.space;
      const socket = sockets.get(name);
      const served = socket === undefined ? '' : `, fork on ${socket}`;
      return `${name}: volume of ${((pages * 4096) / MIB_BYTES).toFixed(1)} MiB in ${inodes} files${served}`;
    });
    const { used, taken } = memoryInUse();
    return [...lines, `memory: ${(used / MIB_BYTES).toFixed(1)} MiB in use, ${taken / MIB_BYTES} MiB taken`];
  },
});

/** Commands for a running daemon: `virtiofs-kit memfs …`. */
export const commands = [snapshot, fork, changes, discard, save, list];
