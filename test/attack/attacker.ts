import { writeSync } from 'node:fs';

/** What an attacker's process is told. */
export interface Start {
  readonly socket: string;
  readonly seed: number;
  /** When it ends, in milliseconds since 1970. */
  readonly end: number;
  /** How many requests or messages are enough, so that it ends before. */
  readonly enough: number;
  /** Says what was done, as a line of JSON, and ends the process. */
  finish(counts: Readonly<Record<string, number>>): never;
}

/** Reads the command line: SOCKET SEED SECONDS ENOUGH. */
export function startOf(): Start {
  const [socket, seed, seconds, enough] = process.argv.slice(2) as [string, string, string, string];
  return {
    socket,
    seed: Number(seed),
    end: Date.now() + Number(seconds) * 1000,
    enough: Number(enough),
    finish(counts) {
      writeSync(1, `${JSON.stringify(counts)}\n`);
      process.exit(0);
    },
  };
}
