import type { BenchResult, Row } from './bench.js';
import { medianFigures, ratioOf, type Figures, type Ratio } from './figures.js';

const HEAD = ['ops/s', 'p50 µs', 'p99 µs', 'CPU µs/op', 'MB/s'];
const RATIOS = ['speed ratio', 'p50 ratio', 'CPU ratio'];

/** Ratios of the first daemon's figures to another one's. */
export interface Comparison {
  readonly operationsPerSecond: Ratio;
  readonly medianLatencyUs: Ratio;
  /** Absent where the processes are not known. */
  readonly cpuUsPerOperation: Ratio | undefined;
}

/** Compares the first daemon of a row with each of the others, round by round. */
export function compare({ measurements }: Row): Comparison[] {
  const [first, ...others] = measurements;
  if (first === undefined) return [];
  return others.map((other) => {
    const of = (figure: (one: Figures) => number) =>
      ratioOf(first.rounds.map(figure), other.rounds.map(figure));
    const cpu = of((figures) => figures.cpuUsPerOperation ?? Number.NaN);
    return {
      operationsPerSecond: of((figures) => figures.operationsPerSecond),
      medianLatencyUs: of((figures) => figures.medianLatencyUs),
      cpuUsPerOperation: Number.isNaN(cpu.median + cpu.least + cpu.most) ? undefined : cpu,
    };
  });
}

/**
 * The result as text: a line for each scenario, with the daemons side by side. Figures are medians
 * of the rounds.
 */
export function toTable({ rows, targets }: BenchResult): string {
  const several = targets.length > 1;
  const lines: string[][] = [
    ['', ...targets.flatMap(({ target }) => [target.name, ...HEAD.slice(1).map(() => '')])],
    ['', ...targets.flatMap(() => HEAD), ...targets.slice(1).flatMap(() => RATIOS)],
  ];
  for (const row of rows) {
    const cells = row.measurements.flatMap(({ rounds }) => figureCells(medianFigures(rounds), row));
    const ratios = compare(row).flatMap(({ operationsPerSecond, medianLatencyUs, cpuUsPerOperation }) =>
      [operationsPerSecond, medianLatencyUs, cpuUsPerOperation].map(ratioText),
    );
    lines.push([row.scenario.title, ...cells, ...ratios]);
  }
  const widths = lines[1]!.map((_, column) => Math.max(...lines.map((line) => line[column]?.length ?? 0)));
  // A daemon's name may be wider than the first of its columns, since it stands over all of them.
  for (const [i] of targets.entries())
    widths[1 + HEAD.length * i] = Math.max(8, ...widthsOf(lines.slice(1), 1 + HEAD.length * i));
  const [names, ...rest] = lines;
  const text = rest.map((line) =>
    line.map((cell, i) => (i === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[i]!))).join('  '),
  );
  const over = targets.map(({ target }, i) => {
    const columns = widths.slice(1 + HEAD.length * i, 1 + HEAD.length * (i + 1));
    return target.name.padEnd(columns.reduce((sum, width) => sum + width + 2, -2));
  });
  const title = `${names![0]!.padEnd(widths[0]!)}  ${over.join('  ')}`.trimEnd();
  const notes = targets.map(({ target, requestQueues, residentBytes }) => {
    const memory = residentBytes === null ? '' : `, ${(residentBytes / 2 ** 20).toFixed(0)} MiB resident`;
    return `${target.name}: ${requestQueues} request queue${requestQueues === 1 ? '' : 's'}${memory}`;
  });
  if (several)
    notes.push(
      'Ratios are of the first to each of the others in turn, median of the rounds (least to most).',
    );
  return [title, ...text, '', ...notes, ''].join('\n');
}

function widthsOf(lines: readonly string[][], column: number): number[] {
  return lines.map((line) => line[column]?.length ?? 0);
}

function figureCells(figures: Figures, { scenario }: Row): string[] {
  const { operationsPerSecond, medianLatencyUs, p99LatencyUs, cpuUsPerOperation } = figures;
  const bytes = scenario.bytes;
  return [
    operationsPerSecond.toFixed(0),
    medianLatencyUs.toFixed(1),
    p99LatencyUs.toFixed(1),
    cpuUsPerOperation === null ? '–' : cpuUsPerOperation.toFixed(2),
    bytes === undefined ? '' : ((operationsPerSecond * bytes) / 1e6).toFixed(0),
  ];
}

function ratioText(ratio: Ratio | undefined): string {
  if (ratio === undefined) return '–';
  const { median, least, most } = ratio;
  return `${median.toFixed(2)} (${least.toFixed(2)}–${most.toFixed(2)})`;
}

/** The result for programs: figures of every round, medians and ratios. */
export function toJson({ rows, targets }: BenchResult): object {
  return {
    targets: targets.map(({ target, requestQueues, residentBytes }) => ({
      ...target,
      requestQueues,
      residentBytes,
    })),
    rows: rows.map((row) => ({
      key: row.scenario.key,
      title: row.scenario.title,
      depth: row.scenario.depth,
      unit: row.scenario.units?.name ?? 'operation',
      bytes: row.scenario.bytes ?? null,
      measurements: row.measurements.map(({ target, rounds }) => ({
        target: target.name,
        median: medianFigures(rounds),
        rounds,
      })),
      thinkTimeUs: row.scenario.thinkTimeUs ?? 0,
      ratios: compare(row),
    })),
  };
}
