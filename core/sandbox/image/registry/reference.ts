import { existsSync } from 'node:fs';
import { UsageError } from '../../../backend/index.js';

/** An image in a registry. */
export interface Reference {
  /** `HOST` or `HOST:PORT`, as it was given. */
  readonly registry: string;
  /** Its repository there, such as `library/alpine`. */
  readonly repository: string;
  /** A tag, or a digest. */
  readonly version: string;
}

/** What the place of an image in a registry begins with. */
export const SCHEME = 'docker://';
const DOCKER_HUB = 'docker.io';

/** The grammar of Docker's references (distribution/reference), without a limit on lengths. */
const HOST = /^(?:[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?$/;
const REPOSITORY = /^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^sha256:[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$/;
const MOST_CHARACTERS = 600;

/**
 * What a place says of a registry: `docker://[HOST/]NAME[:TAG][@DIGEST]`, or without the scheme
 * where the first part can only be a host and there is no such file. The host is Docker Hub and the
 * tag `latest` by default.
 * @returns undefined if it is no place in a registry.
 * @throws UsageError for one with the scheme that cannot be.
 */
export function referenceOf(place: string): Reference | undefined {
  if (place.startsWith(SCHEME)) {
    const found = parsed(place.slice(SCHEME.length));
    if (found === undefined)
      throw new UsageError(`image ${place}: must be docker://[HOST[:PORT]/]NAME[:TAG][@DIGEST]`);
    return found;
  }
  const [first = '', second] = place.split('/');
  const isHost = second !== undefined && (/[^.].*\.|:\d/.test(first) || first === 'localhost');
  return isHost && !existsSync(first) ? parsed(place) : undefined;
}

function parsed(text: string): Reference | undefined {
  if (text.length > MOST_CHARACTERS) return undefined;
  const [named = '', digest, more] = text.split('@');
  const [, path = '', tag] = /^(.*?)(?::([^/:]*))?$/.exec(named) ?? [];
  const at = path.indexOf('/');
  const first = path.slice(0, Math.max(0, at));
  const hasHost = /[.:]/.test(first) || first === 'localhost';
  const registry = hasHost ? first : DOCKER_HUB;
  const rest = hasHost ? path.slice(at + 1) : path;
  const repository = registry === DOCKER_HUB && !rest.includes('/') ? `library/${rest}` : rest;
  const isWhole = HOST.test(registry) && REPOSITORY.test(repository) && more === undefined;
  if (!isWhole || !TAG.test(tag ?? 'latest') || (digest !== undefined && !DIGEST.test(digest)))
    return undefined;
  return { registry, repository, version: digest ?? tag ?? 'latest' };
}

/** Whether a reference names its image by what is in it. */
export function isDigest(version: string): boolean {
  return version.includes(':');
}
