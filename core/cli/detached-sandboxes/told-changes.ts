import type { Writable } from 'node:stream';
import { nameBytes } from '../../backend/index.js';
import type { Aspect, FileVersion, Sandbox, SandboxDifference } from '../../sandbox/index.js';
import type { Request } from './frames.js';

/** A line on a change, as bytes. */
export function lineOf({ kind, path }: { readonly kind: string; readonly path: string }): Uint8Array {
  return nameBytes(`${kind} ${path}\n`);
}

/** Tells what a sandbox has changed. */
export async function tellDifferences(
  box: Sandbox,
  { path, form }: Request & { readonly command: 'diff' },
  to: Writable,
): Promise<void> {
  if (form === 'unified') return box.patch(to, path);
  for (const change of await box.diff(path)) {
    if (to.destroyed) return;
    const bytes = form === 'list' ? lineOf(change) : nameBytes(await longLine(change));
    await new Promise((written) => {
      to.write(bytes, written);
    });
  }
}

/** A line that tells what differs, too. */
async function longLine(change: SandboxDifference): Promise<string> {
  const { kind, path } = change;
  const [before, after] = [await change.before(), await change.after()];
  const there = after ?? before;
  // It has changed again meanwhile.
  if (there === undefined) return `${kind} ${path}\n`;
  if (before === undefined || after === undefined) return `${kind} ${path} (${there.describe()})\n`;
  const aspects = await change.aspects();
  const told = aspects.map((aspect) => {
    if (aspect === 'type') return `${before.describe()} -> ${after.describe()}`;
    const [old, now] = [valueOf(aspect, before), valueOf(aspect, after)];
    return old === undefined ? aspect : `${aspect} ${old} -> ${now}`;
  });
  return `${kind} ${path} (${told.length === 0 ? 'the same' : told.join(', ')})\n`;
}

/** What a version has of what differs; undefined where it takes more than a word. */
function valueOf(
  aspect: Aspect,
  { attributes, owner, permissions, target }: FileVersion,
): string | undefined {
  if (aspect === 'content') return `${attributes.size} bytes`;
  if (aspect === 'mode') return permissions;
  if (aspect === 'owner') return owner;
  if (aspect === 'target') return target;
  if (aspect === 'device') return String(attributes.rdev);
  return undefined;
}
