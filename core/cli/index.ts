/**
 * The command line: thin commands over `core/plugins`. Flags are made from the same schemas as
 * configuration files and documentation; nothing here knows what an option means.
 *
 * - `main.ts`, `begin.ts`, `program.ts`: the program, and its commands.
 * - `code-cache.ts`: compiled code that the next start finds.
 * - `commands/`: one file for each command.
 * - `init/`: the package that `init` writes.
 * - `sandboxes/`: sandboxes that run on, in a process of their own, and how commands reach it.
 * - `virtiofsd/`: the command line of virtiofsd, both generations.
 * - `backend-options.ts`, `flags.ts`, `program-arguments.ts`: from words to options.
 * - `log-and-services.ts`, `signals.ts`: what commands that serve have in common: log, services,
 *   and an orderly end.
 * - `service-manager.ts`: tells systemd how the program is doing.
 * - `confined-start.ts`: confines the process. `serve-exports.ts`: all that serves, loaded after
 *   that.
 * - `metrics.ts`: listens for Prometheus before the process is confined. `control.ts`: the socket
 *   for commands, which a keeper makes for its engines.
 * - `access-log.ts`: opens the access log before that.
 * - `isolate.ts`, `isolated-exports.ts`: serve exports by processes of their own.
 * - `keep.ts`: starts the keeper, and the engine under it.
 */
export { runProgram } from './program.js';
