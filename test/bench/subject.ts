import { setTimeout as sleep } from 'node:timers/promises';
import { isListening, type Daemon, type RunningDaemon } from '../support/daemons.js';

/** A daemon that a comparison starts. */
export interface Subject {
  /** Name in tables. */
  readonly name: string;
  readonly daemon: Pick<Daemon, 'command'>;
  /** Whether one process of it serves several guests. */
  readonly servesMany?: boolean;
}

/** Resolves when a daemon listens; looks often enough for its start to be timed. */
export async function whenListening(daemon: RunningDaemon): Promise<void> {
  while (!isListening(daemon)) await sleep(1);
}
