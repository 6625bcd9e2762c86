import type { Operation } from './operation.js';

/** A sequence as commands of a shell, for an empty directory of a mount. */
export function script(sequence: readonly Operation[]): string {
  return sequence.map(command).join('\n');
}

/** The first descriptor that a script opens files by. */
const FIRST_FD = 5;

function command(operation: Operation): string {
  switch (operation.kind) {
    case 'create':
      return `: > ${operation.path}`;
    case 'mkdir':
    case 'rmdir':
    case 'unlink':
      return `${operation.kind} ${operation.path}`;
    case 'read':
      return `cksum ${operation.path}`;
    case 'list':
      return `ls -A ${operation.path || '.'}`;
    case 'rename':
      return `mv -T ${operation.path} ${operation.to}`;
    case 'link':
      return `ln -T ${operation.path} ${operation.to}`;
    case 'truncate':
      return `truncate -s ${operation.size} ${operation.path}`;
    case 'write':
      return `${letters(operation)} of=${operation.path}`;
    case 'open':
      return `exec ${FIRST_FD + operation.slot}<> ${operation.path}`;
    case 'close':
      return `exec ${FIRST_FD + operation.slot}>&-`;
    case 'readOpen':
      return `cksum /proc/self/fd/${FIRST_FD + operation.slot}`;
    case 'writeOpen':
      return `${letters(operation)} of=/proc/self/fd/${FIRST_FD + operation.slot}`;
  }
}

function letters({ offset, length, letter }: { offset: number; length: number; letter: string }): string {
  const seek = `oflag=seek_bytes seek=${offset} conv=notrunc status=none`;
  return `printf '%${length}s' | tr ' ' ${letter} | dd bs=${length} iflag=fullblock ${seek}`;
}
