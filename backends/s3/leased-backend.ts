import {
  andThen,
  FsError,
  type Awaitable,
  type BackendMethod,
  type CachePolicy,
  type Context,
  type LockHold,
} from '../../core/backend/index.js';
import type { Leases } from './leases/leases.js';
import type { Node } from './tree/nodes.js';
import { WritableBackend } from './writable-backend.js';

/** How a method is held to the lease. */
interface Rule {
  readonly isChange: boolean;
  /** What is known of the node, its first argument, is asked for again where it is too old. */
  readonly isCurrent?: true;
  /** It may answer at once. */
  readonly isPrompt?: true;
}

const CHANGE: Rule = { isChange: true };

/** The methods that are carried out only as long as the lease is not lost. */
const RULES: { readonly [Name in BackendMethod]?: Rule } = {
  lookup: { isChange: false, isPrompt: true },
  getattr: { isChange: false, isPrompt: true },
  open: { isChange: false, isPrompt: true },
  readdir: { isChange: false },
  read: { isChange: false, isCurrent: true },
  write: { isChange: true, isCurrent: true },
  setattr: { isChange: true, isCurrent: true },
  fallocate: { isChange: true, isCurrent: true },
  create: CHANGE,
  mknod: CHANGE,
  mkdir: CHANGE,
  symlink: CHANGE,
  unlink: CHANGE,
  rmdir: CHANGE,
  rename: CHANGE,
  setxattr: CHANGE,
  removexattr: CHANGE,
};

/** Any of these methods. Its last argument is the context. */
type Method = (...args: unknown[]) => Awaitable<unknown>;

/**
 * Serves a bucket for several hosts whose guests keep to each other's locks. Under a lock nothing
 * is believed that was heard before; guests ask for everything, since they can't be told.
 */
export class LeasedBackend extends WritableBackend {
  override readonly cache: CachePolicy = {
    entryTimeout: 0,
    negativeTimeout: 0,
    attributeTimeout: 0,
    data: 'auto',
    writeback: false,
  };

  static {
    const inherited = WritableBackend.prototype as unknown as Readonly<Record<string, Method>>;
    for (const [name, rule] of Object.entries(RULES)) {
      const method = inherited[name]!;
      const value = function (this: LeasedBackend, ...args: unknown[]): Awaitable<unknown> {
        return this.#hold(rule, method, args);
      };
      Object.defineProperty(LeasedBackend.prototype, name, { value });
    }
  }

  get #leases(): Leases {
    return this.mounted.leases!;
  }

  protected override get ttl(): number {
    return Math.min(super.ttl, performance.now() - this.#leases.freshSince);
  }

  lock(node: Node, hold: LockHold, isWaiting: boolean, context: Context | undefined): Awaitable<void> {
    if (node.kind === 'directory') throw FsError.of('EOPNOTSUPP');
    const locked = this.#leases.lock(node, hold, isWaiting, context);
    return locked instanceof Promise ? this.guard(() => locked) : locked;
  }

  #hold(rule: Rule, method: Method, args: unknown[]): Awaitable<unknown> {
    if (rule.isPrompt === true) return this.#checked(rule, method, args);
    return (async () => this.#checked(rule, method, args))();
  }

  #checked({ isChange, isCurrent }: Rule, method: Method, args: unknown[]): Awaitable<unknown> {
    const context = args.at(-1) as Context;
    const run = (): Awaitable<unknown> => {
      const refreshed = isCurrent === true ? this.refresh(args[0] as Node, this.ttl, context) : undefined;
      return andThen(refreshed, () => method.apply(this, args));
    };
    const checked = this.#leases.check(isChange, context);
    return checked instanceof Promise ? this.guard(async () => checked).then(run) : run();
  }
}
