/**
 * Guests of an export that a session journal keeps, in memory of this process: what a killed
 * engine would leave.
 */
import type { Backend } from '../../core/backend/index.js';
import { saveSession, type Session } from '../../core/fuse/index.js';
import { Journal, type Left, type SavedSession, type Slot } from '../../core/state/index.js';
import { type Engine, engine, type Guest } from './engine.js';

/** A journal's memory that is this process's alone. */
export class PlainMemory {
  readonly words: Int32Array;

  constructor(words: number) {
    this.words = new Int32Array(words);
  }

  discard(from: number, to: number): void {
    this.words.fill(0, from, to);
  }
}

export interface Journaled extends Engine {
  readonly journal: Journal;
  /** Connects a guest that the journal keeps. */
  kept(): Guest;
}

/** Mounts a backend, and keeps a journal of its guests. */
export async function journaled(
  backend: Backend,
  memory: { readonly words: Int32Array; discard(from: number, to: number): void },
): Promise<Journaled> {
  const running = await engine(backend);
  let held = 0;
  const holder = { hold: () => ++held, drop: () => undefined };
  const journal = new Journal(running.export, { memory, holder, log: running.log });
  running.export.journal = journal;
  journal.begin();
  let connections = 0;
  return {
    ...running,
    journal,
    kept() {
      const guest = running.guest();
      guest.session.journal = journal.register(guest.session, { connection: connections++, socket: 0 });
      return guest;
    },
  };
}

/** What guests have, in a form that does not depend on how nodes are numbered. */
export function livingState({ export: shared }: Engine, sessions: readonly Session[]): string {
  const { nodes, locks } = shared;
  const id = (slot: number) => `${nodes.idHigh(slot as Slot) >>> 0}:${nodes.idLow(slot as Slot) >>> 0}`;
  const lines = sessions.flatMap((session) =>
    sessionLines(
      saveSession(session, (slot) => slot),
      id,
    ),
  );
  for (const { node, posix, flock } of locks.files()) {
    for (const [owner, { list }] of posix)
      for (const { type, start, end } of list.ranges)
        lines.push(`posix ${id(node)} ${owner.session} ${owner.id} ${type} ${start} ${end}`);
    for (const [owner, { type }] of flock)
      lines.push(`flock ${id(node)} ${owner.session} ${owner.id} ${type}`);
  }
  return lines.sort().join('\n');
}

/** The same of what a journal says. */
export function leftState({ saved }: Left): string {
  const id = (index: number) => `${saved.nodes[index]!.high}:${saved.nodes[index]!.low}`;
  const lines = saved.sessions.flatMap((session) => sessionLines(session, id));
  for (const { kind, node, session, owner, type, start, end } of saved.locks.locks) {
    const range = kind === 'posix' ? ` ${start} ${end}` : '';
    lines.push(`${kind} ${id(node)} ${session} ${owner} ${type}${range}`);
  }
  return lines.sort().join('\n');
}

function sessionLines(session: SavedSession, nodeId: (node: number) => string): string[] {
  const { id, negotiated, lookups, handles, handleGeneration } = session;
  return [
    `${id} ${JSON.stringify(negotiated)} ${handleGeneration}`,
    ...lookups.map(([node, count]) => `${id} lookup ${nodeId(node)} ${count}`),
    ...handles.map(
      ({ index, generation, node, flags, lost, stream }) =>
        `${id} handle ${index} ${generation} ${nodeId(node)} ${flags} ${lost} ${stream?.complete} ${stream?.entries}`,
    ),
  ];
}
