/**
 * Passthrough whose process kills itself at a stage of a request, for tests. A directory of marks
 * says at which: `order` has the stage, and is removed by the process that dies there.
 */
import { appendFileSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import passthrough from '../../backends/passthrough/index.js';
import { type Around, type Backend, definePlugin, type Overrides, wrap } from '../../core/backend/index.js';
import { InflightQueue } from '../../core/virtqueue/inflight.js';
import { SplitRing } from '../../core/virtqueue/split-ring.js';
import { BESIDE, cases, repeatable } from './opcode-cases.js';

/** The way of a request, as far as a process that is killed leaves another state behind. */
export const STAGES = [
  'taken',
  'before the change',
  'after the change',
  'answered, and not returned',
  'in the used ring, and its index not stored',
  'returned, and marked as in flight',
  'returned, and the guest not interrupted',
] as const;
export type Stage = (typeof STAGES)[number];

/** Files in the directory of marks. */
export const Mark = {
  /** The stage at which to die. */
  ORDER: 'order',
  /** The stage of a change that is to be held where it makes {@link BESIDE}. */
  BESIDE: 'beside',
  /** Made once that is held. */
  HELD: 'held',
  /** A line for each method that was carried out: its name. */
  MADE: 'made',
  /** What the last IOCTL has set. */
  FLAGS: 'flags',
} as const;

/** Does something around a method of all instances of a class. */
function patch(
  { prototype }: { readonly prototype: object },
  name: string,
  before: () => void,
  after: (result: unknown) => void = () => undefined,
): void {
  const method = Reflect.get(prototype, name) as (...args: unknown[]) => unknown;
  Reflect.set(prototype, name, function (this: unknown, ...args: unknown[]) {
    before();
    const result = Reflect.apply(method, this, args);
    after(result);
    return result;
  });
}

export default definePlugin({
  name: 'dying',
  description: 'passthrough whose process is killed',
  options: z.strictObject({
    share: z.string().describe('the shared directory'),
    marks: z.string().describe('a directory of marks'),
  }),
  async create({ share, marks }, environment) {
    const order = join(marks, Mark.ORDER);
    const dieAt = (stage: Stage): void => {
      if (!existsSync(order) || readFileSync(order, 'utf8') !== stage) return;
      rmSync(order);
      process.kill(process.pid, 'SIGKILL');
    };
    let hasReturned = false;
    patch(
      SplitRing,
      'pop',
      () => undefined,
      (head) => {
        if ((head as number) >= 0) dieAt('taken');
      },
    );
    patch(
      SplitRing,
      'push',
      () => dieAt('answered, and not returned'),
      () => (hasReturned = existsSync(order)),
    );
    patch(
      InflightQueue,
      'beforeReturn',
      () => undefined,
      () => dieAt('in the used ring, and its index not stored'),
    );
    patch(InflightQueue, 'afterReturn', () => dieAt('returned, and marked as in flight'));
    patch(SplitRing, 'takeInterrupt', () => {
      if (hasReturned) dieAt('returned, and the guest not interrupted');
    });

    const inner = await passthrough.create(passthrough.options.parse({ sharedDir: share }), environment);
    const beside = join(marks, Mark.BESIDE);
    const held = async (next: () => unknown): Promise<unknown> => {
      const stage = readFileSync(beside, 'utf8');
      rmSync(beside);
      if (stage === 'after the change') await next();
      writeFileSync(join(marks, Mark.HELD), '');
      return new Promise(() => undefined);
    };
    const around: Around = (method, next, args) => {
      const isBeside = method === 'mknod' && args[1] === BESIDE;
      if (isBeside && existsSync(beside)) return held(next);
      if (isBeside) return next();
      dieAt('before the change');
      const after = (result: unknown): unknown => {
        appendFileSync(join(marks, Mark.MADE), `${method}\n`);
        dieAt('after the change');
        return result;
      };
      const made = next();
      return made instanceof Promise ? made.then(after) : after(made);
    };
    const methods = Object.values({ ...cases, ...repeatable }).flatMap(({ method }) => method ?? []);
    const overrides = methods.map((method) => [
      method,
      (next: (...args: unknown[]) => unknown, ...args: unknown[]) =>
        around(method, () => next(...args), args),
    ]);
    const set = (command: number, input: Uint8Array): unknown => {
      writeFileSync(join(marks, Mark.FLAGS), String(input[0]));
      return { result: command, output: input };
    };
    const ioctl = (...args: unknown[]): unknown =>
      around('ioctl', () => set(args[2] as number, args[3] as Uint8Array), args);
    return wrap(inner, Object.fromEntries(overrides) as Overrides<object, unknown>, {
      add: { ioctl } as Partial<Backend>,
    });
  },
});
