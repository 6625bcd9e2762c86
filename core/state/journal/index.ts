/**
 * What the guests of an export have, in memory that outlives this process: the session journal.
 *
 * - `records.ts`: which records there are.
 * - `journal.ts`: writes them.
 * - `intent.ts`: requests that must not be carried out twice.
 * - `open-requests.ts`: where the records of requests lie that have no answer yet.
 * - `known-ends.ts`: where files end to which guests append.
 * - `recent-names.ts`: what names stood for lately, which spares looks before such requests.
 * - `replay.ts`: reads what a killed process has left.
 */
export { IntentKind, type NamedNode, NO_PLACE, type Verdict } from './intent.js';
export {
  type DescriptorHolder,
  Journal,
  type JournaledSession,
  SessionJournal,
  type SessionPlace,
} from './journal.js';
export { uniqueOf } from './open-requests.js';
export { NOT_RECENT } from './recent-names.js';
export { type Left, type LeftSession, type OpenIntent, replay } from './replay.js';
