import { join } from 'node:path';
import { lifeSteps, measureLife, type LifeFigures } from '../../core/bench/index.js';
import { median, medianFigures, ratioOf, type Figures } from '../../core/bench/figures.js';
import { launch } from '../support/daemons.js';
import { whenListening, type Subject } from './subject.js';

/** How often daemons are started, and where. */
export interface LivesOptions {
  /** Folder for sockets. */
  readonly scratch: string;
  /** What is served. */
  readonly directory: string;
  readonly rounds: number;
  onProgress(text: string): void;
}

/** What was measured of a daemon in one round. */
interface Round extends LifeFigures {
  /** Milliseconds from the start of its process until its socket listened. */
  readonly start: number;
}

/**
 * Starts each daemon anew in every round, in turns, and measures its first operations of each kind
 * and later ones.
 */
export async function compareLives(
  subjects: readonly Subject[],
  { scratch, directory, rounds, onProgress }: LivesOptions,
): Promise<{ table: string; json: object }> {
  const results: Round[][] = subjects.map(() => []);
  for (let round = 0; round < rounds; round++) {
    const order = subjects.map((_, i) => i);
    if (round % 2 === 1) order.reverse();
    for (const i of order) {
      const { name, daemon } = subjects[i]!;
      onProgress(`round ${round + 1} of ${rounds}: ${name}`);
      const began = performance.now();
      const running = launch(daemon, directory, join(scratch, `life-${round}-${i}`));
      try {
        await whenListening(running);
        const start = performance.now() - began;
        const target = { name, socket: running.socket, pid: running.process.pid };
        results[i]!.push({ start, ...(await measureLife(target)) });
      } finally {
        await running.stop();
      }
    }
  }
  const json = subjects.map(({ name }, i) => ({ name, steps: lifeSteps, rounds: results[i] }));
  return { table: tableOf(subjects, results), json };
}

function tableOf(subjects: readonly Subject[], results: readonly Round[][]): string {
  const head = [
    '',
    ...subjects.map(({ name }) => `${name}: CPU µs cold, hot; p50 cold, hot`),
    ...subjects.slice(1).map(({ name }) => `CPU cold; hot : ${name}`),
  ];
  const lines = lifeSteps.map(({ title }, step) => {
    const figures = (subject: number, when: 'cold' | 'hot') =>
      results[subject]!.map((round) => round[when][step]!);
    const cells = subjects.map((_, i) => {
      const [cold, hot] = [medianFigures(figures(i, 'cold')), medianFigures(figures(i, 'hot'))];
      return [cold.cpuPerOperation ?? Number.NaN, hot.cpuPerOperation ?? Number.NaN]
        .map((value) => value.toFixed(1))
        .concat(`; ${cold.medianLatency.toFixed(1)}`, hot.medianLatency.toFixed(1))
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
  const starts = results.map((rounds) => `${median(rounds.map(({ start }) => start)).toFixed(0)} ms`);
  lines.push(['start until the socket listens', ...starts, ...subjects.slice(1).map(() => '')]);
  const all = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...all.map((line) => line[column]!.length)));
  return all
    .map((line) => line.map((cell, i) => (i === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[i]!))))
    .map((line) => `${line.join('  ')}\n`)
    .join('');
}

function cpuOf(figures: readonly Figures[]): number[] {
  return figures.map(({ cpuPerOperation }) => cpuPerOperation ?? Number.NaN);
}
