import { EventEmitter } from 'node:events';
import type { Logger } from '../backend/index.js';

/** Which export an event is about. */
export interface ExportEvent {
  /** The tag; of a mount on this host, its directory. */
  readonly tag: string;
  /** The socket's path, or the name or number of its descriptor; of a mount, its directory. */
  readonly socket: string;
}

/** What happens while exports are served, by name. */
export interface ExportEvents {
  /** A virtual machine monitor has connected; its guest may mount. */
  readonly connected: [event: ExportEvent];
  /** A guest, or this host, has mounted: INIT was answered. Again after each reboot. */
  readonly mounted: [event: ExportEvent];
  /** A virtual machine monitor has gone, or the mount was unmounted. */
  readonly disconnected: [event: ExportEvent];
  /**
   * A backend has thrown what is no FsError. At most ten in a second are told for each guest, as
   * they are logged.
   */
  readonly fault: [event: ExportEvent & { readonly error: unknown; readonly message: string }];
}

/**
 * Tells listeners in a turn of the event loop of its own. One that throws is logged, and harms
 * nobody.
 */
export class Events extends EventEmitter<ExportEvents> {
  readonly #log: Logger;

  constructor(log: Logger) {
    super();
    this.#log = log;
  }

  /**
   * Tells the listeners of an event in a later turn of the event loop. One that throws is logged,
   * and the others are told.
   */
  tell<Name extends keyof ExportEvents>(name: Name, ...event: ExportEvents[Name]): void {
    if (this.listenerCount(name) === 0) return;
    setImmediate(() => {
      for (const listener of this.rawListeners(name)) {
        try {
          (listener as (...told: ExportEvents[Name]) => void)(...event);
        } catch (err) {
          this.#log.error({ err }, `a listener of ${name} failed`);
        }
      }
    });
  }
}
