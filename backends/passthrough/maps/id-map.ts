import { FsError, UsageError } from '../../../core/backend/index.js';

/**
 * Ids from `base` (inclusive) to `end` (exclusive). `shift` moves them to `target` onwards,
 * `squash` makes all of them `target`, `forbid` refuses them.
 */
interface Range {
  readonly base: number;
  readonly end: number;
  readonly target: number;
  readonly kind: 'shift' | 'squash' | 'forbid';
}

const ID_LIMIT = 2 ** 32;
/** The id that is none: chown(2) and setresuid(2) take it for "as it is". */
const NO_ID = ID_LIMIT - 1;

const grammar =
  'is not map|guest|host|squash-guest|squash-host:SOURCE:TARGET:COUNT or forbid-guest:SOURCE:COUNT';

/**
 * Translates owners between guest and host, by the rules of virtiofsd's `--translate-uid`. `guest`
 * and `squash-guest` say what a guest's id becomes on the host; `host` and `squash-host` say what a
 * host's id becomes in the guest; `map` does both. Ids without a rule stay as they are.
 */
export class IdMap {
  readonly #toHost: Range[] = [];
  readonly #toGuest: Range[] = [];

  /**
   * @param rules such as `map:0:100000:65536`
   * @param option names the option in errors
   * @throws UsageError
   */
  constructor(rules: readonly string[], option: string) {
    for (const rule of rules) this.#add(rule, option);
    checkApart(this.#toHost, option);
    checkApart(this.#toGuest, option);
  }

  /** Whether there is anything to translate. */
  get active(): boolean {
    return this.#toHost.length > 0 || this.#toGuest.length > 0;
  }

  /**
   * @throws FsError EPERM for an id that the guest may not use, EINVAL where it is none, or becomes
   * none.
   */
  toHost(id: number): number {
    const translated = translate(this.#toHost, id);
    if (id === NO_ID || translated === NO_ID) throw FsError.of('EINVAL');
    return translated;
  }

  toGuest(id: number): number {
    return translate(this.#toGuest, id);
  }

  #add(rule: string, option: string): void {
    const [kind, ...texts] = rule.split(':');
    const numbers = texts.map(Number);
    const forbid = kind === 'forbid-guest';
    const valid = texts.every((text, index) => /^\d+$/.test(text) && numbers[index]! <= ID_LIMIT);
    if (!valid || numbers.length !== (forbid ? 2 : 3)) {
      throw new UsageError(`--${option} ${rule}: ${grammar}`);
    }
    const [source, target] = numbers as [number, number];
    const count = numbers.at(-1)!;
    const one = kind === 'squash-guest' || kind === 'squash-host' || forbid;
    if (source + count > ID_LIMIT || (!one && target + count > ID_LIMIT) || count === 0) {
      throw new UsageError(`--${option} ${rule}: ids end at ${ID_LIMIT - 1}, and a range has one at least`);
    }
    if (one && !forbid && target >= NO_ID) {
      throw new UsageError(`--${option} ${rule}: the last id is ${NO_ID - 1}`);
    }
    const shift = { base: source, end: source + count, target, kind: 'shift' } as const;
    switch (kind) {
      case 'map':
        this.#toHost.push(shift);
        this.#toGuest.push({ base: target, end: target + count, target: source, kind: 'shift' });
        return;
      case 'guest':
        this.#toHost.push(shift);
        return;
      case 'host':
        this.#toGuest.push(shift);
        return;
      case 'squash-guest':
        this.#toHost.push({ ...shift, kind: 'squash' });
        return;
      case 'squash-host':
        this.#toGuest.push({ ...shift, kind: 'squash' });
        return;
      case 'forbid-guest':
        this.#toHost.push({ ...shift, kind: 'forbid' });
        return;
      default:
        throw new UsageError(`--${option} ${rule}: ${grammar}`);
    }
  }
}

function translate(ranges: readonly Range[], id: number): number {
  // An iterator would be made for each id of each reply.
  for (let i = 0; i < ranges.length; i++) {
    const { base, end, target, kind } = ranges[i]!;
    if (id < base || id >= end) continue;
    if (kind === 'forbid') throw FsError.of('EPERM');
    return kind === 'squash' ? target : target + (id - base);
  }
  return id;
}

function checkApart(ranges: readonly Range[], option: string): void {
  const sorted = ranges.toSorted((a, b) => a.base - b.base);
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i]!.base < sorted[i - 1]!.end) {
      throw new UsageError(
        `--${option}: two rules cover id ${sorted[i]!.base}; their ranges must not overlap`,
      );
    }
  }
}
