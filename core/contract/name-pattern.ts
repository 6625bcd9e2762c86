import { nameBytes } from '../backend/index.js';

/** Most bytes of a name (NAME_MAX). */
const NAME_BYTES = 255;

/**
 * What files are called in a backend that does not take every name: `*.json` makes `a` of a rule
 * `a.json`. Directories, and names that a rule has not made, stay as they are.
 */
export class NamePattern {
  readonly #before: string;
  readonly #after: string;
  /** What rules have made, by their names for it. */
  readonly #kinds = new Map<string, 'file' | 'directory'>();
  readonly #byActual = new Map<string, string>();

  /** @throws RangeError unless the pattern has one star. */
  constructor(pattern: string) {
    const [before, after, ...more] = pattern.split('*');
    if (after === undefined || more.length > 0)
      throw new RangeError(`"${pattern}": a pattern for names has one *, such as *.json`);
    this.#before = before!;
    this.#after = after;
  }

  /** The actual name of a file that is made. */
  file(name: string): string {
    this.#kinds.set(name, 'file');
    const actual = this.#actual(name);
    this.#byActual.set(actual, name);
    return actual;
  }

  directory(name: string): string {
    this.#kinds.set(name, 'directory');
    return name;
  }

  /** The actual name of what may be there. */
  known(name: string): string {
    return this.#kinds.get(name) === 'directory' || name === '.' || name === '..' ? name : this.#actual(name);
  }

  /** The actual name that something is to get in the place of another. */
  renamed(name: string, newName: string): string {
    const isFile = this.#kinds.get(name) !== 'directory';
    if (this.#kinds.has(newName)) return this.known(newName);
    return isFile ? this.file(newName) : this.directory(newName);
  }

  /** What a rule calls a name that the backend has listed. */
  listed(actual: string): string {
    if (actual === '.' || actual === '..') return actual;
    const name = this.#byActual.get(actual);
    if (name !== undefined) return name;
    // What no rule has made is looked up as it was listed.
    if (!this.#kinds.has(actual)) this.#kinds.set(actual, 'directory');
    return actual;
  }

  #actual(name: string): string {
    const room = NAME_BYTES - nameBytes(this.#before).length - nameBytes(this.#after).length;
    const characters = [...name];
    while (nameBytes(characters.join('')).length > room) characters.pop();
    return this.#before + characters.join('') + this.#after;
  }
}
