import { parseDocument } from 'yaml';
import { UsageError } from '../backend/index.js';

/** Aliases that a document may resolve to: enough for people, too few to fill memory. */
const MAX_ALIASES = 100;

/**
 * Reads YAML (or JSON, which is YAML).
 * @param what names the text in errors.
 * @throws UsageError with the first line of what is wrong.
 */
export function parseYaml(text: string, what: string): unknown {
  const document = parseDocument(text);
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
