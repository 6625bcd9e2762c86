import { createRequire } from 'node:module';
import { UsageError } from '../../backend/index.js';

/** Loads the library on first use: most daemons read no YAML, and it takes several MB of memory. */
function library(): typeof import('yaml') {
  return createRequire(import.meta.url)('yaml') as typeof import('yaml');
}

/** How many aliases a document may have: enough for people, too few to fill memory. */
const MAX_ALIASES = 100;

/**
 * Reads YAML (or JSON, which is YAML).
 * @param what names the text in errors.
 * @throws UsageError with the first line of the parser's message.
 */
export function parseYaml(text: string, what: string): unknown {
  const document = library().parseDocument(text);
  try {
    const [problem] = document.errors;
    if (problem !== undefined) throw problem;
    return document.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (error) {
    throw new UsageError(`${what}: ${(error as Error).message.split('\n')[0]!.replace(/:$/, '')}`, {
      cause: error,
    });
  }
}

/** Writes YAML. */
export function toYaml(value: unknown): string {
  return library().stringify(value);
}
