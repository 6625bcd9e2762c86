import { UsageError } from '../backend/index.js';
import { passedDescriptors } from '../system/descriptors/sd-notify.js';
import { suggestion } from './options/suggestion.js';

/**
 * The inherited descriptor of an export's socket, by its number or its name.
 * @returns undefined if the export has a path.
 * @throws UsageError if the service manager passed none of that name.
 */
export function inheritedSocket({
  fd,
  fdName,
}: {
  readonly fd?: number | undefined;
  readonly fdName?: string | undefined;
}): number | undefined {
  if (fdName === undefined) return fd;
  const passed = passedDescriptors();
  const named = passed.get(fdName);
  if (named !== undefined) return named;
  const names = [...passed.keys()];
  throw new UsageError(
    `no socket named ${fdName} was passed to this process` +
      (names.length === 0 ? '' : `, but ${names.join(', ')}${suggestion(fdName, names)}`),
  );
}
