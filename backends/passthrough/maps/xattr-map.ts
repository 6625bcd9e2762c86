import { FsError, UsageError } from '../../../core/backend/index.js';

/** What a rule does with a name that it matches. */
type Action = 'prefix' | 'ok' | 'bad' | 'unsupported';

interface Rule {
  readonly action: Action;
  /** Applies to names that guests use. */
  readonly client: boolean;
  /** Applies to names that the host lists. */
  readonly server: boolean;
  /** Prefix of a guest's name that the rule applies to. */
  readonly key: string;
  /**
   * Prefix of the host's name that the rule applies to; `prefix` puts it before the guest's name.
   */
  readonly prepend: string;
}

/**
 * Maps names of extended attributes between guest and host, by virtiofsd's rules:
 * `:type:scope:key:prepend:`, where the first character is the separator of that rule, and white
 * space may stand between rules. The first rule that matches decides; a name that none matches is
 * refused, or hidden.
 *
 * - `prefix`: the host's name is the guest's with `prepend` before it.
 * - `ok`: the name is the same on both sides.
 * - `bad`: guests get EPERM, and don't see it listed.
 * - `unsupported`: guests get EOPNOTSUPP, and don't see it listed.
 * - `:map:key:prepend:` as the last rule stands for a prefix and the rules that make it safe.
 */
export class XattrMap {
  readonly #rules: Rule[] = [];

  /** @throws UsageError */
  constructor(text: string) {
    let rest = text.trim();
    if (rest === '')
      throw new UsageError('--xattrmap: needs at least one rule, such as :map::user.virtiofs.:');
    let mapped = false;
    while (rest !== '') {
      if (mapped) throw new UsageError(`--xattrmap ${rest}: nothing may follow a map rule`);
      const separator = rest[0]!;
      const type = field(rest, 1, separator);
      if (type.text === 'map') {
        const key = field(rest, type.next, separator);
        const prepend = field(rest, key.next, separator);
        this.#addMap(key.text, prepend.text);
        mapped = true;
        rest = rest.slice(prepend.next).trim();
      } else {
        const scope = field(rest, type.next, separator);
        const key = field(rest, scope.next, separator);
        const prepend = field(rest, key.next, separator);
        this.#rules.push({
          ...side(scope.text),
          action: action(type.text),
          key: key.text,
          prepend: prepend.text,
        });
        rest = rest.slice(prepend.next).trim();
      }
    }
  }

  /**
   * The host's name for one that a guest uses.
   * @throws FsError EPERM or EOPNOTSUPP where it may not be used.
   */
  toHost(name: string): string {
    for (const rule of this.#rules) {
      if (!rule.client || !name.startsWith(rule.key)) continue;
      if (rule.action === 'bad') throw FsError.of('EPERM');
      if (rule.action === 'unsupported') throw FsError.of('EOPNOTSUPP');
      return rule.action === 'prefix' ? rule.prepend + name : name;
    }
    throw FsError.of('EPERM');
  }

  /**
   * The name under which a guest sees an attribute of the host; undefined if it does not see it.
   */
  toGuest(name: string): string | undefined {
    for (const rule of this.#rules) {
      if (!rule.server || !name.startsWith(rule.prepend)) continue;
      if (rule.action === 'ok') return name;
      return rule.action === 'prefix' ? name.slice(rule.prepend.length) : undefined;
    }
    return undefined;
  }

  #addMap(key: string, prepend: string): void {
    const all = { client: true, server: true };
    this.#rules.push({ ...all, action: 'prefix', key, prepend });
    if (key === '') {
      this.#rules.push({ ...all, action: 'bad', key: '', prepend: '' });
      return;
    }
    // The host's own attributes below `key` stay hidden, and guests cannot reach the mapped ones
    // under their host names.
    this.#rules.push({ client: false, server: true, action: 'bad', key: '', prepend: key });
    this.#rules.push({ client: true, server: false, action: 'bad', key: prepend, prepend: '' });
    this.#rules.push({ ...all, action: 'ok', key: '', prepend: '' });
  }
}

function field(text: string, start: number, separator: string): { text: string; next: number } {
  const end = text.indexOf(separator, start);
  if (end < 0)
    throw new UsageError(`--xattrmap ${text}: the rule does not end with its separator ${separator}`);
  return { text: text.slice(start, end), next: end + 1 };
}

function side(scope: string): { client: boolean; server: boolean } {
  if (scope !== 'client' && scope !== 'server' && scope !== 'all') {
    throw new UsageError(`--xattrmap: scope ${scope}: is not client, server or all`);
  }
  return { client: scope !== 'server', server: scope !== 'client' };
}

function action(type: string): Action {
  if (type === 'prefix' || type === 'ok' || type === 'bad' || type === 'unsupported') return type;
  throw new UsageError(`--xattrmap: type ${type}: is not prefix, ok, bad, unsupported or map`);
}
