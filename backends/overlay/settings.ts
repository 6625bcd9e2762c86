import type { Backend } from '../../core/backend/index.js';
import type { FaultPoint } from './layers/work-area.js';

/** What an overlay is made of. */
export interface OverlaySettings {
  /** Absent: the union is read-only. */
  readonly upper: Backend | undefined;
  /** Top first; at least one. */
  readonly lowers: readonly Backend[];
  /**
   * Directories in the upper's backend: `upperPath` holds the union's changes, `workPath` the work
   * area.
   */
  readonly upperPath: readonly string[];
  readonly workPath: readonly string[] | undefined;
  /** Whether directories of lowers can be renamed; otherwise rename gives EXDEV. */
  readonly redirectDir: boolean;
  /**
   * Whether a change of mode, owner, times or xattrs leaves a file's content in the lower
   * (`overlay.metacopy`), and whether such files are followed. As in Linux, this needs
   * `redirectDir` and the namespace `trusted`.
   */
  readonly metacopy: boolean;
  /** Namespace of overlayfs's extended attributes. */
  readonly xattrs: 'trusted' | 'user';
  readonly marks: 'auto' | 'overlayfs' | 'names';
  /** Called at each step of a change, for crash tests. */
  readonly reached?: FaultPoint;
}
