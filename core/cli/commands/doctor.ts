import type { Command } from 'commander';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  findingLines,
  hostFacts,
  judgeDaemon,
  judgeFolders,
  judgeHost,
  judgeSockets,
  type Finding,
} from '../../monitoring/doctor/index.js';
import { readConfig } from '../../plugins/index.js';
import { needsOf } from '../../plugins/backend-needs.js';
import type { BackendRegistry } from '../../plugins/registry.js';
import { askStatus, printable } from './status.js';

/** Between the two looks at a daemon, in milliseconds. */
const PAUSE_MS = 1000;
/** A daemon that answers later than that is held by something, in milliseconds. */
const ANSWER_MS = 5000;

/** `doctor`: what is wrong with this host or a daemon, and what to do. */
export function addDoctor(program: Command, registry: BackendRegistry): void {
  program
    .command('doctor')
    .description('look at this host and at a daemon, and say in plain words what is wrong and what to do')
    .argument('[CONTROL]', 'the control socket of a daemon to look at: serve --control CONTROL')
    .option('--config <FILE>', 'look at the sockets and folders that this configuration file names, too')
    .option('--json', 'a line of JSON for each finding, for programs')
    .addHelpText('after', '\nExit code: 0 if there is no problem, 1 if there is one.\n')
    .action((control: string | undefined, options: Options) => doctor(control, options, registry));
}

interface Options {
  readonly config?: string;
  readonly json?: boolean;
}

async function doctor(
  control: string | undefined,
  { config, json }: Options,
  registry: BackendRegistry,
): Promise<void> {
  const facts = hostFacts();
  const findings = [
    ...judgeHost(facts),
    ...(config === undefined ? [] : await judgeConfig(config, facts.isRoot, registry)),
    ...(control === undefined ? [] : await lookAt(control)),
  ];
  const lines = json === true ? findings.map((one) => JSON.stringify(one)) : findingLines(findings);
  process.stdout.write(lines.map((line) => `${printable(line)}\n`).join(''));
  if (findings.some(({ level }) => level === 'problem')) process.exitCode = 1;
}

async function judgeConfig(file: string, isRoot: boolean, registry: BackendRegistry): Promise<Finding[]> {
  const config = readConfig(file);
  const sockets = config.exports.flatMap(({ socket }) => (socket === undefined ? [] : [socket]));
  const needs = await needsOf(config, registry);
  const folders = typeof needs === 'string' ? [] : needs.paths.filter(({ write }) => write);
  return [...judgeSockets(sockets, isRoot), ...judgeFolders(folders.map(({ path }) => path))];
}

async function lookAt(control: string): Promise<Finding[]> {
  const late = AbortSignal.timeout(PAUSE_MS + 2 * ANSWER_MS);
  try {
    const before = await askStatus(control, late);
    await sleep(PAUSE_MS);
    return judgeDaemon(before, await askStatus(control, late));
  } catch (error) {
    if (!late.aborted) throw error;
    const finding: Finding = {
      level: 'problem',
      about: control,
      text: `the daemon does not answer within ${ANSWER_MS / 1000} s: something holds its thread, and all guests wait`,
      advice:
        'A look-up on a file system of the host that hangs (a network that is gone) does that: look at dmesg, and at ' +
        '/proc/PID/stack. isolate: process keeps it from other exports.',
    };
    return [finding];
  }
}
