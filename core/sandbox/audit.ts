import { errorName, opcodeName } from '../monitoring/names.js';
import { AccessLog, type LogForm, openAccessLog } from '../trace/access-log.js';
import { filterOf, type TracedRequest, type Tracing } from '../trace/index.js';

/** What reads or changes files. */
const TOLD = filterOf({
  opcodes: [
    ...(['OPEN', 'OPENDIR', 'READ', 'WRITE', 'CREATE', 'MKNOD', 'MKDIR', 'SYMLINK', 'LINK'] as const),
    ...(['UNLINK', 'RMDIR', 'RENAME', 'RENAME2', 'SETATTR', 'SETXATTR', 'REMOVEXATTR'] as const),
    ...(['FALLOCATE', 'COPY_FILE_RANGE'] as const),
  ],
});

/** What refuses by a rule. */
const REFUSALS = new Set(['EACCES', 'EROFS', 'EPERM']);

/**
 * Writes what a sandbox reads, changes, and is refused, line by line as JSON.
 * @param file to whose end lines are added.
 * @param places where its shares are seen, by their tags; of others nothing is told.
 * @throws UsageError for a file that cannot be opened.
 */
export function openAudit(file: string, places: ReadonlyMap<string, string>, tracing: Tracing): AccessLog {
  const form: LogForm = {
    shows: (one) => places.has(one.tag) && (TOLD(one) || REFUSALS.has(errorName(one.errno))),
    line: (one) => lineOf(one, places.get(one.tag) ?? ''),
    lostRequests: (lost) => JSON.stringify({ lost }),
    lostLines: (lost) => JSON.stringify({ lost }),
  };
  return new AccessLog(openAccessLog(file), form, tracing);
}

function lineOf(
  { time, opcode, path, target, uid, gid, pid, fields, bytes, errno }: TracedRequest,
  place: string,
): string {
  const at = (name: string): string => (name.startsWith('/') ? place + name : name);
  return JSON.stringify({
    time: new Date(time / 1000).toISOString(),
    operation: opcodeName(opcode),
    path: at(path),
    target: target === undefined ? undefined : at(target),
    uid,
    gid,
    pid,
    arguments: Object.fromEntries(
      fields.map(([name, value]) => [name, typeof value === 'bigint' ? `${value}` : value]),
    ),
    bytes,
    result: errno === 0 ? 'ok' : errorName(errno),
  });
}
