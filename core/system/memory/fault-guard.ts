import { libc, result } from '../calls/libc.js';
import { eventfd, drain } from '../descriptors/eventfd.js';
import { watch } from '../event-loop/watch.js';
import { NativeMemory, putLong } from './native-memory.js';
import { Region } from './region.js';

/*
 * Mapped memory of another process's file can lack a page when it is accessed: no huge page is
 * left, the file system is full, or the file became shorter. The kernel then sends SIGBUS, which
 * ends the process. The signal handler here replaces the whole region by zeroed memory of this
 * process, signals an eventfd, and lets the access continue. A system call that accesses such
 * memory fails with EFAULT and sends no signal.
 */

const sigaction = libc<(signal: number, action: number, before: number) => number>('sigaction', 'int', [
  'int',
  'uintptr_t',
  'uintptr_t',
]);

const SIGBUS = 7;
const SA_SIGINFO = 4;
const SA_ONSTACK = 0x08000000;
const SA_NODEFER = 0x40000000;
/** Offset of `sa_flags` in the C library's `struct sigaction`. */
const SA_FLAGS = 136;

/** Regions that can be guarded at a time. */
const CAPACITY = 8192;
/** Bytes of each: first address, address after the last, whether it was replaced. */
const ENTRY = 24;

/**
 * Offsets in the guard's memory: the number one for the eventfd, zeros that stand for the default
 * action, the handler's `struct sigaction`, and the entries.
 */
const ONE = 0;
const DEFAULT = 8;
const ACTION = 256;
const ENTRIES = 512;

/** Eight bytes of an instruction. */
function quad(value: number): string {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes.toString('hex');
}

/** Four bytes of an instruction. */
function word(value: number): string {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32LE(value);
  return bytes.toString('hex');
}

/** The handler, x86-64: a signal, its `siginfo_t`, a context. */
function handler(table: number, fd: number): string {
  return [
    '48 8b 46 10', //                        mov  rax, [rsi + 16]    si_addr
    `49 b8 ${quad(table + ENTRIES)}`, //     mov  r8, entries
    `b9 ${word(CAPACITY)}`, //               mov  ecx, capacity
    '4d 8b 08', //                           next: mov r9, [r8]
    '4d 8b 50 08', //                        mov  r10, [r8 + 8]
    '4c 39 c8', //                           cmp  rax, r9
    '72 53', //                              jb   other
    '4c 39 d0', //                           cmp  rax, r10
    '73 4e', //                              jae  other
    '49 c7 40 10 01 00 00 00', //            mov  qword [r8 + 16], 1
    '4c 89 cf', //                           mov  rdi, r9           mmap(first,
    '4c 89 d6', //                           mov  rsi, r10
    '4c 29 ce', //                           sub  rsi, r9           end - first,
    'ba 03 00 00 00', //                     mov  edx, 3            PROT_READ | PROT_WRITE,
    '41 ba 32 40 00 00', //                  mov  r10d, 0x4032      private, anonymous, fixed,
    '49 c7 c0 ff ff ff ff', //               mov  r8, -1            no descriptor,
    '45 31 c9', //                           xor  r9d, r9d          0)
    'b8 09 00 00 00', //                     mov  eax, 9
    '0f 05', //                              syscall
    '48 85 c0', //                           test rax, rax
    '78 24', //                              js   fatal
    `bf ${word(fd)}`, //                     mov  edi, eventfd      write(eventfd,
    `48 be ${quad(table + ONE)}`, //         mov  rsi, one          one,
    'ba 08 00 00 00', //                     mov  edx, 8            8)
    'b8 01 00 00 00', //                     mov  eax, 1
    '0f 05', //                              syscall
    'c3', //                                 ret
    '49 83 c0 18', //                        other: add r8, 24
    'ff c9', //                              dec  ecx
    '75 99', //                              jnz  next
    'bf 07 00 00 00', //                     fatal: mov edi, 7      rt_sigaction(SIGBUS,
    `48 be ${quad(table + DEFAULT)}`, //     mov  rsi, default      default action,
    '31 d2', //                              xor  edx, edx          nothing,
    '41 ba 08 00 00 00', //                  mov  r10d, 8           8)
    'b8 0d 00 00 00', //                     mov  eax, 13
    '0f 05', //                              syscall
    'c3', //                                 ret
  ]
    .join('')
    .replaceAll(' ', '');
}

interface Guard {
  readonly entries: Uint32Array;
  readonly free: number[];
  readonly onLost: Map<number, () => void>;
}

let guard: Guard | undefined;
let isTried = false;

function setUp(): Guard | undefined {
  isTried = true;
  if (process.arch !== 'x64') return undefined;
  const memory = NativeMemory.allocate(ENTRIES + CAPACITY * ENTRY);
  memory.u32[ONE] = 1;
  const lost = eventfd();
  const code = Buffer.from(handler(memory.address, lost.value), 'hex');
  const program = Region.anonymous(code.length);
  new Uint8Array(program.view(program.address, code.length)).set(code);
  putLong(memory.u32, ACTION >> 2, program.address);
  memory.u32[(ACTION + SA_FLAGS) >> 2] = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  // A security policy may forbid the execution of memory that no file backs.
  if (!program.makeExecutable() || result(sigaction(SIGBUS, memory.address + ACTION, 0)) < 0) {
    program.release();
    memory.free();
    lost.close();
    return undefined;
  }
  const made: Guard = {
    entries: memory.u32.subarray(ENTRIES >> 2, (ENTRIES + CAPACITY * ENTRY) >> 2),
    free: Array.from({ length: CAPACITY }, (_, index) => CAPACITY - 1 - index),
    onLost: new Map(),
  };
  watch(lost.value, () => {
    drain(lost.value);
    notify(made);
  }).unref();
  return made;
}

/** Calls the listeners of the regions that were replaced. */
function notify({ entries, onLost }: Guard): void {
  for (const [index, listener] of onLost) {
    const hit = (index * ENTRY + 16) >> 2;
    if (entries[hit] === 0) continue;
    entries[hit] = 0;
    listener();
  }
}

/** A region whose loss does not end the process. */
export interface GuardedRegion {
  /** Ends the guard, before the region is released. Idempotent. */
  end(): void;
}

/**
 * Makes the handler, as the first {@link guardRegion} does: for a process that must not make memory
 * executable later.
 */
export function prepareFaultGuard(): void {
  if (!isTried) guard = setUp();
}

/**
 * Guards a shared region. If a page of it is missing at an access, the region becomes zeroed memory
 * of this process, and `onLost` is called in a later turn of the event loop.
 * @returns undefined if there is no handler for this architecture, or a security policy forbids it.
 * SIGBUS then ends the process.
 * @throws RangeError if too many regions are guarded.
 */
export function guardRegion(region: Region, onLost: () => void): GuardedRegion | undefined {
  prepareFaultGuard();
  if (guard === undefined) return undefined;
  const { entries, free, onLost: listeners } = guard;
  const index = free.pop();
  if (index === undefined) throw new RangeError(`more than ${CAPACITY} regions of shared memory`);
  const first = (index * ENTRY) >> 2;
  listeners.set(index, onLost);
  putLong(entries, first + 2, region.address + region.length);
  putLong(entries, first, region.address);
  return {
    end() {
      if (!listeners.delete(index)) return;
      entries.fill(0, first, first + ENTRY / 4);
      free.push(index);
    },
  };
}
