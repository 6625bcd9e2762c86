/**
 * What is kept in memory that outlives this process, so that the next one goes on from there.
 *
 * - `log.ts`: records in it, whose end is stored last.
 * - `compaction.ts`: when and how a log is written anew.
 * - `text.ts`: strings as words of a record.
 */
export { Compaction } from './compaction.js';
export { type LogForm, type LogMemory, readLog, RecordLog } from './log.js';
export { putText, putWide, readText, readWide, textWords } from './text.js';
