import { type Backend, UsageError } from '../../backend/index.js';

/** What guests may do at a path and below. */
export interface PathRule {
  /** From the root: `/secret/keys`. */
  readonly path: string;
  /** `hidden`: the name is not there. `read-only`: nothing can be changed. */
  readonly access: 'hidden' | 'read-only';
}

/** A backend and where it is mounted. */
export class Mount {
  readonly backend: Backend;
  readonly path: string;
  readonly index: number;

  constructor(backend: Backend, path: string, index: number) {
    this.backend = backend;
    this.path = path;
    this.index = index;
  }
}

/** A path that a mount or rule names, or that leads to one. */
export class Point {
  readonly path: string;
  readonly children = new Map<string, Point>();
  mount: Mount | undefined;
  isHidden = false;
  isReadOnly = false;

  constructor(path: string) {
    this.path = path;
  }

  /** Whether a mount is below, so that the path must lead somewhere. */
  get leadsToMount(): boolean {
    return [...this.children.values()].some(({ mount, leadsToMount }) => mount !== undefined || leadsToMount);
  }

  /** The point at a path, made if need be. @throws UsageError for what is no path. */
  at(path: string): Point {
    const names = path.split('/').slice(1);
    const isPath = path.startsWith('/') && names.every((name) => !['.', '..'].includes(name));
    if (!isPath || path.includes('\0')) throw new UsageError(`${path}: not a path from the root, as /a/b`);
    return names.filter((part) => part !== '').reduce((point, name) => point.#child(name), this as Point);
  }

  #child(name: string): Point {
    let child = this.children.get(name);
    if (child === undefined) this.children.set(name, (child = new Point(`${trim(this.path)}/${name}`)));
    return child;
  }
}

function trim(path: string): string {
  return path === '/' ? '' : path;
}

/** Puts mounts and rules together. @throws UsageError for paths that are none or contradict. */
export function pointsOf(
  mounts: Readonly<Record<string, Backend>>,
  rules: readonly PathRule[],
): { readonly root: Point; readonly mounts: readonly Mount[] } {
  const root = new Point('/');
  const all = Object.entries(mounts).map(([path, backend], index) => {
    const point = root.at(path);
    if (point.mount !== undefined) throw new UsageError(`${path}: two backends at one path`);
    return (point.mount = new Mount(backend, point.path, index));
  });
  if (all.length === 0) throw new UsageError('routed: no backend is mounted');
  if (new Set(all.map(({ backend }) => backend)).size < all.length)
    throw new UsageError('routed: a backend can be mounted once only');
  for (const { path, access } of rules) {
    const point = root.at(path);
    if (point === root && access === 'hidden') throw new UsageError('routed: the root cannot be hidden');
    if (access === 'hidden') point.isHidden = true;
    else point.isReadOnly = true;
  }
  return { root, mounts: all };
}
