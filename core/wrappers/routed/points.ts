import { type Backend, UsageError } from '../../backend/index.js';

/** What guests may do at a path and below. */
export type PathRule =
  | {
      /** From the root: `/secret/keys`. */
      readonly path: string;
      /**
       * `hidden`: the name is not there. `denied`: it is listed, and all else is EACCES.
       * `read-only`: nothing can be changed.
       */
      readonly access: 'hidden' | 'denied' | 'read-only';
    }
  | {
      readonly path: string;
      /** `redirected`: what is at another path is seen here, too, and changed from here. */
      readonly access: 'redirected';
      /** The other path, below the root of one of the backends. Rules below it hold here, too. */
      readonly to: string;
    };

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

/** A path at which guests see what is at another. */
export interface Redirect {
  readonly index: number;
  readonly from: Point;
  readonly to: Point;
  /** The backend that has `to`, and the names that lead there from its root. */
  readonly mount: Mount;
  readonly names: readonly string[];
  /** Whether nothing can be changed at `to`. */
  readonly isReadOnly: boolean;
}

/** A path that a mount or rule names, or that leads to one. */
export class Point {
  readonly path: string;
  readonly children = new Map<string, Point>();
  mount: Mount | undefined;
  redirect: Redirect | undefined;
  isHidden = false;
  isDenied = false;
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

  /** The points below that are not of another mount, with the names that lead there. */
  *below(
    names: readonly string[] = [],
  ): Generator<{ readonly point: Point; readonly names: readonly string[] }> {
    for (const [name, point] of this.children) {
      if (point.mount !== undefined) continue;
      const path = [...names, name];
      yield { point, names: path };
      yield* point.below(path);
    }
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
): { readonly root: Point; readonly mounts: readonly Mount[]; readonly redirects: readonly Redirect[] } {
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
    if (point === root && access !== 'read-only')
      throw new UsageError(`routed: the root cannot be ${access}`);
    if (access === 'hidden') point.isHidden = true;
    else if (access === 'denied') point.isDenied = true;
    else if (access === 'read-only') point.isReadOnly = true;
  }
  const redirects = rules
    .flatMap((rule) => (rule.access === 'redirected' ? [rule] : []))
    .map(({ path, to }, index) => addRedirect(root, index, path, to));
  for (const redirect of redirects) checkRedirect(redirect, redirects);
  return { root, mounts: all, redirects };
}

function addRedirect(root: Point, index: number, path: string, to: string): Redirect {
  const from = root.at(path);
  const target = root.at(to);
  if (from.redirect !== undefined) throw new UsageError(`${path}: redirected twice`);
  let point = root;
  let { mount, isReadOnly } = root;
  let names: string[] = [];
  for (const name of namesOf(target.path)) {
    point = point.children.get(name)!;
    names.push(name);
    isReadOnly ||= point.isReadOnly;
    if (point.mount === undefined) continue;
    ({ mount } = point);
    names = [];
  }
  if (mount === undefined || names.length === 0 || target.leadsToMount)
    throw new UsageError(`${path}: redirected to ${to}, which is not below the root of one backend`);
  return (from.redirect = { index, from, to: target, mount, names, isReadOnly });
}

/** @throws UsageError where it is not clear what is where, or a tree would be endless. */
function checkRedirect({ from, to }: Redirect, all: readonly Redirect[]): void {
  if (from.mount !== undefined || from.children.size > 0)
    throw new UsageError(`${from.path}: redirected, so that no mount or rule can be there or below`);
  for (const { from: other } of all) {
    if (isWithin(other.path, to.path))
      throw new UsageError(`${from.path}: redirected to ${to.path}, which ${other.path} is in`);
    if (isWithin(to.path, other.path))
      throw new UsageError(`${from.path}: redirected to ${to.path}, which ${other.path} redirects again`);
  }
}

function namesOf(path: string): string[] {
  return path.split('/').filter((name) => name !== '');
}

function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}
