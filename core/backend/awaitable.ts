/** A value now, or a promise of it. Every backend method may return either. */
export type Awaitable<T> = T | Promise<T>;

/** Whether a value has to be waited for. */
export function isPromise<T>(value: Awaitable<T>): value is Promise<T> {
  return value instanceof Promise;
}

/** Continues with `next`: in the same turn if `value` is there already, else when it is. */
export function andThen<T, R>(value: Awaitable<T>, next: (value: T) => Awaitable<R>): Awaitable<R> {
  return value instanceof Promise ? value.then(next) : next(value);
}

/** The steps of a routine: it yields what must be waited for and is resumed with the value. */
export type Steps<R> = Generator<Awaitable<unknown>, R, unknown>;

/**
 * Waits inside {@link run}: `const entry = yield* wait(layer.lookup(…))`.
 * A value that is there already goes on at once, without a promise.
 */
export function* wait<T>(value: Awaitable<T>): Generator<Awaitable<unknown>, T, unknown> {
  return value instanceof Promise ? ((yield value) as T) : value;
}

/**
 * Runs a routine written once for both kinds of layer: synchronously as long as everything it waits
 * for is there already, asynchronously from the first promise on. Errors are thrown into the
 * routine where it waits.
 */
export function run<R>(steps: Steps<R>): Awaitable<R> {
  let step = steps.next();
  while (!step.done) {
    if (step.value instanceof Promise) return finish(steps, step.value);
    step = steps.next(step.value);
  }
  return step.value;
}

async function finish<R>(steps: Steps<R>, first: Promise<unknown>): Promise<R> {
  let pending: Awaitable<unknown> = first;
  for (;;) {
    let step: IteratorResult<Awaitable<unknown>, R>;
    try {
      const value = await pending;
      step = steps.next(value);
    } catch (error) {
      step = steps.throw(error);
    }
    if (step.done) return step.value;
    pending = step.value;
  }
}
