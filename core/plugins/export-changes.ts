import { isDeepStrictEqual } from 'node:util';
import { UsageError } from '../backend/index.js';
import type { BackendSource } from './backend-source.js';
import type { ExportConfig } from './options/config-schema.js';

/**
 * Settings that belong to an export's file system beside its backend: exports of one backend agree
 * in them.
 */
export const COMMON = ['readOnly', 'watch', 'locks', 'cache', 'limits'] as const;

/** Settings that last as long as the file system is open. */
const LASTING = ['backend', ...COMMON] as const;

/** An export with what its backend is made of. */
export interface SourcedExport {
  readonly config: Omit<ExportConfig, 'backend'> & { readonly backend: string | BackendSource };
  readonly source: BackendSource;
}

/** What a new configuration changes, by what tells exports apart: their sockets. */
export interface ExportChanges<Wanted, Served> {
  readonly added: readonly Wanted[];
  readonly removed: readonly Served[];
  /** Those whose socket is to be opened anew. Their file systems stay open. */
  readonly changed: readonly { readonly from: Served; readonly to: Wanted }[];
  /** Those of which the rate alone is another: guests may be connected. */
  readonly paced: readonly { readonly from: Served; readonly to: Wanted }[];
}

/** What tells an export from the others of its daemon. */
export function placeOf({ socket, fdName, fd }: Pick<ExportConfig, 'socket' | 'fdName' | 'fd'>): string {
  return String(socket ?? fdName ?? fd);
}

/**
 * Compares what is served with what is wanted.
 * @throws UsageError for what cannot be changed while it is served, and for guests that would be
 * cut off.
 */
export function exportChanges<Wanted extends SourcedExport, Served extends SourcedExport>(
  served: readonly (Served & { readonly connections: number })[],
  wanted: readonly Wanted[],
): ExportChanges<Wanted, Served> {
  const before = new Map(served.map((one) => [placeOf(one.config), one]));
  const added: Wanted[] = [];
  const changed: { from: Served; to: Wanted }[] = [];
  const paced: typeof changed = [];
  for (const to of wanted) {
    const place = placeOf(to.config);
    const from = before.get(place);
    before.delete(place);
    if (from === undefined) {
      if (to.config.socket === undefined)
        throw new UsageError(`export ${to.config.tag}: an inherited socket needs a restart`);
      added.push(to);
      continue;
    }
    const odd = LASTING.find((key) => !isDeepStrictEqual(to.config[key], from.config[key]));
    if (odd !== undefined || !isDeepStrictEqual(to.source, from.source)) {
      throw new UsageError(
        `${place}: ${odd ?? 'backend'} lasts as long as the file system is open: ` +
          'take the export out, reload, put it in again, and reload, or restart the daemon',
      );
    }
    if (isDeepStrictEqual(to.config, from.config)) continue;
    if (isDeepStrictEqual({ ...to.config, rate: undefined }, { ...from.config, rate: undefined })) {
      paced.push({ from, to });
      continue;
    }
    refuseInUse(place, from.connections, 'changed');
    if (from.config.socket === undefined)
      throw new UsageError(`${place}: an inherited socket needs a restart`);
    changed.push({ from, to });
  }
  for (const [place, { connections }] of before) refuseInUse(place, connections, 'taken out');
  return { added, removed: [...before.values()], changed, paced };
}

/** @throws UsageError if guests would be cut off. */
export function refuseInUse(place: string, connections: number, what: string): void {
  if (connections === 0) return;
  const guests = connections === 1 ? 'a guest uses it' : `${connections} guests use it`;
  throw new UsageError(`${place}: ${guests}, and would hang for ever if it was ${what}; end the guest first`);
}
