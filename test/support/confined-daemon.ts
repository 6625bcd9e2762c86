import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { program } from './program.js';
import { temporaryFolder } from './vhost-user.js';

/** A line of the log. */
type Line = Record<string, unknown>;

/** A daemon in a process of its own, confined as it is by default. */
export interface Served {
  /** What it had logged when it served, or ended. */
  readonly said: readonly Line[];
  readonly text: string;
  readonly socket: string;
  readonly pid: number;
  /** Ends it. @returns its exit code. */
  end(): Promise<number | null>;
}

/**
 * Starts `serve` for a directory, or another backend, with the default confinement, and waits
 * until it has logged `until` or has ended.
 */
export async function serve(
  t: TestContext,
  share: string,
  {
    node = process.execPath,
    environment = {},
    words = [] as string[],
    until = 'serving',
    backend = ['--backend', 'passthrough', '--shared-dir', share],
    socket = join(temporaryFolder(t), 'socket'),
    /** A configuration file that says what is served, at `socket`, instead. */
    config = undefined as string | undefined,
  } = {},
): Promise<Served> {
  const flags = [...backend, '--tag', 'confined', '--socket-path', socket];
  const served = config === undefined ? flags : ['--config', config];
  const command = [program, 'serve', ...served, '--log-format', 'json', ...words];
  const child = spawn(node, command, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...environment },
  });
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  t.after(() => child.kill());
  const said: Line[] = [];
  const lines: string[] = [];
  await new Promise<void>((served) => {
    createInterface({ input: child.stderr })
      .on('line', (line) => {
        lines.push(line);
        if (line.startsWith('{')) said.push(JSON.parse(line) as Line);
        if (said.at(-1)?.['msg'] === until) served();
      })
      .on('close', served);
  });
  const end = (): Promise<number | null> => {
    child.kill();
    return ended;
  };
  return { said, text: lines.join('\n'), socket, pid: child.pid!, end };
}
