import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { FileType, nameBytes, UsageError } from '../backend/index.js';
import { TemporaryFolder } from '../guest/index.js';
import type { FileVersion, SandboxDifference } from './differences.js';

/** Most bytes of a file that is compared by lines. */
const MOST_BYTES = 16 << 20;

/** One of two versions, for `diff`. */
interface Side {
  readonly file: string;
  readonly label: string;
}

const NOTHING: Side = { file: '/dev/null', label: '/dev/null' };

/**
 * Writes changes as a unified diff with the headers of git, which `patch -p1` and `git apply` read.
 * What these do not know (directories, devices, owners, files that are too long) is told in lines
 * that begin with `#`, which they skip.
 * @param to stays open.
 * @throws UsageError if the program `diff` is not installed; what the stream fails with.
 */
export async function writePatch(changes: Iterable<SandboxDifference>, to: Writable): Promise<void> {
  using folder = new TemporaryFolder();
  const patch = new Patch(to, folder.path);
  for (const change of changes) {
    // First, since the path may be a file's now.
    for await (const removed of change.removedBelow()) await patch.add(removed);
    await patch.add(change);
  }
}

class Patch {
  readonly #to: Writable;
  readonly #folder: string;

  constructor(to: Writable, folder: string) {
    this.#to = to;
    this.#folder = folder;
  }

  async add(change: SandboxDifference): Promise<void> {
    const [before, after] = [await change.before(), await change.after()];
    const name = change.path.slice(1);
    const comment = commentOn(before, after);
    if (comment !== undefined) await this.#write(`# ${quoted(name)}: ${comment}\n`);
    const [old, now] = [before, after].map((version) => (isPatchable(version) ? version : undefined));
    if (old?.type === now?.type) {
      if (old === undefined) return;
      const aspects = await change.aspects();
      const isSame = !aspects.includes('content') && !aspects.includes('target');
      return this.#file(name, old, now, isSame);
    }
    // Another type: in two parts, as git does.
    if (old !== undefined) await this.#file(name, old, undefined, false);
    if (now !== undefined) await this.#file(name, undefined, now, false);
  }

  /** At least one version is there. */
  async #file(
    name: string,
    old: FileVersion | undefined,
    now: FileVersion | undefined,
    isSame: boolean,
  ): Promise<void> {
    const [a, b] = [quoted(`a/${name}`), quoted(`b/${name}`)];
    let header = `diff --git ${a} ${b}\n`;
    const [before, after] = [old, now].map((version) => version?.attributes.mode.toString(8));
    if (before === undefined) header += `new file mode ${after}\n`;
    else if (after === undefined) header += `deleted file mode ${before}\n`;
    else if (before !== after) header += `old mode ${before}\nnew mode ${after}\n`;
    else if (isSame) return;
    else if (old?.target !== undefined && now?.target !== undefined) {
      // By this line `patch` knows that it is a link.
      header += `index ${linkId(old.target)}..${linkId(now.target)} ${after}\n`;
    }
    if (isSame) return this.#write(header);
    const from = await this.#side('a', old, a);
    const to = await this.#side('b', now, b);
    if (from !== undefined && to !== undefined) {
      await this.#write(header);
      return this.#compare(from, to);
    }
    const [oldSize = 0, newSize = 0] = [old, now].map((version) => version?.attributes.size);
    await this.#write(
      `# ${quoted(name)}: ${oldSize} -> ${newSize} bytes, too long to be compared by lines\n`,
    );
  }

  /** Puts a version into a file of its own. @returns undefined if it is too long. */
  async #side(side: string, version: FileVersion | undefined, label: string): Promise<Side | undefined> {
    if (version === undefined) return NOTHING;
    const file = join(this.#folder, side);
    // Where a name has a blank, a tab says where it ends.
    const ended = label.includes(' ') ? `${label}\t` : label;
    try {
      const { target } = version;
      await writeFile(file, target === undefined ? await version.bytes(MOST_BYTES) : nameBytes(target));
      return { file, label: ended };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EFBIG') return undefined;
      throw error;
    }
  }

  /** Writes how two files differ by lines, or that they are not text. */
  async #compare(before: Side, after: Side): Promise<void> {
    const labels = [before, after].flatMap(({ label }) => ['--label', label]);
    const child = spawn('diff', ['-u', ...labels, '--', before.file, after.file], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
    });
    const ended = once(child, 'close');
    ended.catch(() => {});
    try {
      const errors = text(child.stderr);
      for await (const part of child.stdout as AsyncIterable<Buffer>) await this.#write(part);
      await ended;
      // Its exit code does not tell failure from files that are no text.
      const said = (await errors).trim();
      if (said !== '') throw new Error(said);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      throw new UsageError('the program diff is missing: apt-get install diffutils', { cause: error });
    } finally {
      child.kill('SIGKILL');
    }
  }

  async #write(bytes: string | Uint8Array): Promise<void> {
    const failure = (): Error => this.#to.errored ?? new Error('nobody reads the patch any more');
    if (this.#to.destroyed) throw failure();
    if (this.#to.write(bytes)) return;
    const gone = new AbortController();
    const stop = (): void => gone.abort();
    this.#to.once('close', stop);
    try {
      await once(this.#to, 'drain', { signal: gone.signal });
    } catch {
      throw failure();
    } finally {
      this.#to.off('close', stop);
    }
  }
}

/** Whether patches can tell of it. */
function isPatchable(version: FileVersion | undefined): boolean {
  return version !== undefined && [FileType.REGULAR, FileType.SYMLINK].includes(version.type as never);
}

/** What git calls the content of a symbolic link. */
function linkId(target: string): string {
  const bytes = nameBytes(target);
  return createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
}

/** What of a change patches cannot tell. */
function commentOn(old: FileVersion | undefined, now: FileVersion | undefined): string | undefined {
  if ([old, now].every((version) => version === undefined || isPatchable(version))) {
    const [before, after] = [old?.owner ?? '0:0', now?.owner];
    return after === undefined || before === after ? undefined : `owner ${before} -> ${after}`;
  }
  const [before, after] = [old, now].map((version) => version?.describe() ?? 'nothing');
  return before === after ? undefined : `${before} -> ${after}`;
}

/** A name as git shows it: in C's notation, where it has what would end its line or is no text. */
function quoted(name: string): string {
  if (!/[\p{Cc}\p{Cs}"\\]/u.test(name)) return name;
  const letters = Array.from(nameBytes(name), (byte) => {
    const letter = String.fromCharCode(byte);
    if (letter === '"' || letter === '\\') return `\\${letter}`;
    return byte >= 0x20 && byte < 0x7f ? letter : `\\${byte.toString(8).padStart(3, '0')}`;
  });
  return `"${letters.join('')}"`;
}
