/**
 * The command line: thin commands over `core/plugins`. Flags are made from the same schemas as
 * configuration files and documentation; nothing here knows what an option means.
 *
 * - `main.ts`, `begin.ts`, `program.ts`: the program, and its commands.
 * - `program-parts.ts`: loads the program that is joined into few files, as the package has it.
 *   `code-cache.ts`: compiled code that the next start finds.
 * - `commands/`: one file for each command.
 * - `init/`: the package that `init` and `npm create virtiofs-backend` write.
 * - `detached-sandboxes/`: the process that holds sandboxes, and how commands reach it.
 * - `mount-helper/`: what mount(8) and fstab(5) run, `mount.virtiofs-kit`.
 * - `virtiofsd/`: the command line of virtiofsd, both generations.
 * - `backend-options.ts`, `flags.ts`, `program-arguments.ts`: from words to options.
 * - `report.ts`: how a program says why it ends.
 * - `serving/`: what commands that serve have in common. `start.ts` tells how a daemon starts:
 *   from a plan (`plan.ts`) to a second program (`planned-start.ts`). `serve-exports.ts` is all
 *   that serves. `metrics.ts`, `control.ts` and `access-log-target.ts` open before what the
 *   confined process can no longer open; `access-log-flags.ts` has flags. `isolate.ts` and
 *   `isolated-exports.ts` serve exports by processes of their own, which `processes-together.ts`
 *   shows as one; `keep.ts` starts the keeper and the engine under it. `background.ts` goes on
 *   without a terminal. `log-and-services.ts`,
 *   `systemd-notices.ts` and `signals.ts`: the log, systemd, and an orderly end.
 */
export { runProgram } from './program.js';
