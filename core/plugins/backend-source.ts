import type { Backend, BackendSpec } from '../backend/index.js';

/**
 * The backend of an export: its kind and options, or a backend that the calling program has made.
 */
export type BackendSource = BackendSpec | Backend;

/** Whether a program made it itself; `Export.open` refuses what has lost its methods. */
export function isBackend(source: BackendSource): source is Backend {
  const { mount, type } = source as Partial<Backend & BackendSpec>;
  return typeof mount === 'function' || typeof type !== 'string';
}

/** Whether it is the name of one under `backends`. */
export function isNamed(backend: string | BackendSource): backend is string {
  return typeof backend === 'string';
}

/** What operators read of a backend: its name or kind, or that a program has made it. */
export function kindOf(backend: string | BackendSource): string {
  if (isNamed(backend)) return backend;
  return isBackend(backend) ? 'own' : backend.type;
}
