import { join } from 'node:path';
import { coldStartSteps, measureColdStart, type ColdStartFigures } from './cold-start-steps.js';
import { median, medianFigures, ratioOf, type Figures } from '../../core/bench/figures.js';
import { launch } from '../support/daemons.js';
import { whenListening, type Subject } from './subject.js';

/** How often daemons are started, and where. */
export interface CompareOptions {
  /** Folder for sockets. */
  readonly scratch: string;
  /** The directory that they serve. */
  readonly directory: string;
  readonly rounds: number;
  onProgress(text: string): void;
}

/** What one round has shown of a daemon. */
interface Round extends ColdStartFigures {
  /** From the start of its process until its socket listened. */
  readonly startMs: number;
}

/**
 * Starts each daemon anew in every round, in turns, and measures its first operations of each kind
 * and later ones.
 */
export async function compareColdStarts(
  subjects: readonly Subject[],
  { scratch, directory, rounds, onProgress }: CompareOptions,
): Promise<{ table: string; json: object }> {
  const results: Round[][] = subjects.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const order = subjects.map((_, i) => i);
    if (round % 2 === 1) order.reverse();
    for (const i of order) {
      const { name, daemon } = subjects[i]!;
      onProgress(`round ${round + 1} of ${rounds}: ${name}`);
      const began = performance.now();
      const running = launch(daemon, directory, join(scratch, `socket-${round}-${i}`));
      try {
        await whenListening(running);
        const startMs = performance.now() - began;
        const target = { name, socket: running.socket, pid: running.process.pid };
        results[i]!.push({ startMs, ...(await measureColdStart(target)) });
      } finally {
        await running.stop();
      }
    }
  }
  const json = subjects.map(({ name }, i) => ({ name, steps: coldStartSteps, rounds: results[i] }));
  return { table: tableOf(subjects, results), json };
}

function tableOf(subjects: readonly Subject[], results: readonly Round[][]): string {
  const head = [
    '',
    ...subjects.map(({ name }) => `${name}: CPU µs cold, hot; p50 cold, hot`),
    ...subjects.slice(1).map(({ name }) => `CPU cold; hot : ${name}`),
  ];
  const lines = coldStartSteps.map(({ title }, step) => {
    const figures = (subject: number, when: 'cold' | 'hot') =>
      results[subject]!.map((round) => round[when][step]!);
    const cells = subjects.map((_, i) => {
      const [cold, hot] = [medianFigures(figures(i, 'cold')), medianFigures(figures(i, 'hot'))];
      return [cold.cpuUsPerOperation ?? Number.NaN, hot.cpuUsPerOperation ?? Number.NaN]
        .map((value) => value.toFixed(1))
        .concat(`; ${cold.medianLatencyUs.toFixed(1)}`, hot.medianLatencyUs.toFixed(1))
        .join(', ')
        .replace(', ;', ';');
    });
    const ratios = subjects.slice(1).map((_, other) =>
      (['cold', 'hot'] as const)
        .map((when) => ratioOf(cpuOf(figures(0, when)), cpuOf(figures(other + 1, when))))
        .map(({ median: middle, least, most }) => {
          return `${middle.toFixed(2)} (${least.toFixed(2)}–${most.toFixed(2)})`;
        })
        .join('; '),
    );
    return [title, ...cells, ...ratios];
  });
  const starts = results.map((rounds) => `${median(rounds.map(({ startMs }) => startMs)).toFixed(0)} ms`);
  lines.push(['start until the socket listens', ...starts, ...subjects.slice(1).map(() => '')]);
  const all = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
  return all
    .map((line) => line.map((cell, i) => (i === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[i]!))))
    .map((line) => `${line.join('  ')}\n`)
    .join('');
}

function cpuOf(figures: readonly Figures[]): number[] {
  return figures.map(({ cpuUsPerOperation }) => cpuUsPerOperation ?? Number.NaN);
}
