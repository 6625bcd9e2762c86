import { quote } from '../guest/initramfs.js';

/*
 * Scripts for busybox's shell in the guest's initial root file system, beside the sandbox's root.
 * The guest runs one, the agent, which does what the host says. Every command has a folder in the
 * control share with the scripts that start it, and with its input and output. All scripts are made
 * here; the guest has nothing else of ours but busybox.
 */

/** Where the guest mounts the control share and the sandbox's root. */
export const CONTROL = '/control';
export const ROOT = '/sandbox';

/** Where commands find busybox, and what shares are mounted at. */
const TOOLS = '/run/virtiofs-kit';
export const BUSYBOX = `${TOOLS}/busybox`;

/**
 * Copies input into a pipe. cat would have the kernel do it, which keeps the pipe locked while it
 * waits for input.
 */
const INPUT = 'dd bs=65536 if=stdin 2>/run/log';

/** Folders of the root that are the guest's own. */
export const OWN_FOLDERS = ['/dev', '/proc', '/sys', '/run'] as const;

/** A share to be seen in the sandbox. */
export interface Mount {
  /** Where the guest has mounted it, outside of the sandbox's root. */
  readonly from: string;
  /** Absolute path in the sandbox. */
  readonly to: string;
}

/**
 * The agent. It reads messages of one line from `next`, and has carried one out when it asks for
 * another:
 *
 *     run ID              runs `ID/start` in the background
 *     kill SIGNAL PID     sends a signal to the process group PID
 *     sync                writes what is cached
 *     forget              the same, and drops it
 *     end                 ends the agent, and so does an empty message
 *
 * start-stop-daemon starts what runs in the background, since the shell's own `&` would have it
 * ignore SIGINT.
 * @param more lines of shell that are run first.
 */
export function agentScript(mounts: readonly Mount[], more: readonly string[]): string {
  return `
root=${ROOT}
for folder in dev proc sys run tmp; do mkdir -p "$root/$folder"; done
for folder in dev proc sys; do mount -o rbind "/$folder" "$root/$folder"; done
mount -t tmpfs -o mode=755 run "$root/run"
mkdir ${ROOT}${TOOLS}
touch ${ROOT}${BUSYBOX}
mount -o bind /bin/busybox ${ROOT}${BUSYBOX}
${mounts.map(({ from, to }) => bindLine(from, to)).join('\n')}
${more.join('\n')}
cd /
while read -r verb first second <${CONTROL}/next; do
  case $verb in
    run) start-stop-daemon -S -b -p /none -x /bin/sh -- "${CONTROL}/$first/start" ;;
    kill) kill -s "$first" -- "-$second" 2>/run/log ;;
    sync) sync ;;
    forget) sync; echo 3 >/proc/sys/vm/drop_caches ;;
    *) break ;;
  esac
done
`;
}

function bindLine(from: string, to: string): string {
  const target = quote(ROOT + to);
  return `mkdir -p ${target} && mount -o bind ${quote(from)} ${target} || exit 1`;
}

/** A command to run in the sandbox. */
export interface CommandLine {
  readonly id: string;
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly uid: number;
  readonly gid: number;
}

/** The size of a terminal. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/**
 * Runs a command with pipes. `token` follows its output when it has ended, since a process that it
 * has left behind may hold the pipes open. The shell's own words on how it ended go elsewhere.
 */
export function pipedScript(id: string, token: string, hasInput: boolean): string {
  const command = `{
    exec 7>&2 2>/run/log
    setsid sh launch 6>&-
    echo $? >exit
    printf %s ${token}
    printf %s ${token} >&7
  }`;
  const piped = hasInput ? `${INPUT} | ${command}` : `${command} </dev/null`;
  return `cd ${CONTROL}/${id} || exit
{ ${piped} 2>&1 >&6 6>&- | cat >stderr 6>&-; } 6>&1 | cat >stdout
`;
}

/**
 * Says who it is, and becomes the command. It takes its errors' descriptor itself: the shell that
 * waits for it tells of signals where it has sent the errors of what it waits for.
 */
export function launchScript({ uid, gid, id }: CommandLine): string {
  return `exec 2>&7 7>&-
echo $$ >started
exec ${enter(id, uid, gid)}
`;
}

/**
 * Runs a command on a terminal of its own, which telnetd makes. What kills the whole group leaves
 * the exit code to the line after it.
 */
export function terminalStartScript(id: string): string {
  return `cd ${CONTROL}/${id} || exit
${INPUT} | {
  telnetd -i -f /dev/null -l ${CONTROL}/${id}/terminal 2>/run/log
  echo 137 >exit
} | cat >stdout
`;
}

/** What telnetd runs: the command, between two tokens, since telnetd greets, too. */
export function terminalScript(
  { id, uid, gid }: CommandLine,
  token: string,
  { columns, rows }: TerminalSize,
): string {
  return `#!/bin/sh
cd ${CONTROL}/${id} || exit
stty tab0 rows ${rows} cols ${columns}
trap : INT QUIT TERM HUP TSTP USR1 USR2
printf %s ${token}
echo $$ >started
exec 7>&2 2>/run/log
(exec 2>&7 7>&-; exec ${enter(id, uid, gid)})
echo $? >exit
printf %s ${token}
cat over
`;
}

function enter(id: string, uid: number, gid: number): string {
  const user = uid === 0 && gid === 0 ? '' : ` nsenter -G ${gid} -S ${uid} ${BUSYBOX}`;
  return `chroot ${ROOT} ${BUSYBOX}${user} sh /proc/self/fd/9 9<${CONTROL}/${id}/command`;
}

/**
 * The script that runs in the sandbox's root, as its user. It looks for a program itself, since
 * busybox would run its own of that name.
 */
export function commandScript({ words, env, cwd }: CommandLine): string {
  const [program = '', ...rest] = words;
  const settings = Object.entries(env).map(([name, value]) => quote(`${name}=${value}`));
  const run = (place: string): string =>
    ['exec', BUSYBOX, 'env', '-i', ...settings, place, ...rest.map((word) => quote(word)), '9<&-'].join(' ');
  const enters = `cd ${quote(cwd)} || exit 126\n`;
  if (program.includes('/')) return `${enters}${run(quote(program))}\n`;
  return `${enters}set -f
IFS=:
path=${quote(env['PATH'] ?? '')}
for folder in $path; do
  program="\${folder:-.}"/${quote(program)}
  [ -f "$program" ] && [ -x "$program" ] && ${run('"$program"')}
done
echo ${quote(`${program}: no such program`)} >&2
exit 127
`;
}
