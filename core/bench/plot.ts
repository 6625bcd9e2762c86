import type { BenchResult } from './bench.js';
import { median, medianFigures } from './figures.js';

const COLOURS = ['#2563eb', '#d97706', '#059669', '#9333ea'];
const LABELS = 430;
const WIDTH = 360;
const BAR = 11;
const GAP = 14;
const TOP = 64;

/**
 * Draws the result: for each scenario a bar for each daemon, on the left its CPU time for an
 * operation, on the right its operations per second. The longest bar of a row is as wide as there
 * is room.
 * @returns SVG text.
 */
export function plot({ rows, targets }: BenchResult): string {
  const rowHeight = BAR * targets.length + GAP;
  const height = TOP + rows.length * rowHeight + 20;
  const width = LABELS + 2 * (WIDTH + 90);
  const parts: string[] = [];
  for (const [i, { target }] of targets.entries()) {
    parts.push(`<rect x="${20 + 200 * i}" y="14" width="12" height="12" fill="${colour(i)}"/>`);
    parts.push(text(38 + 200 * i, 25, target.name));
  }
  const columns = [
    { title: 'CPU time for an operation (less is better)', unit: 'µs', of: cpu },
    { title: 'operations per second (more is better)', unit: '/s', of: speed },
  ];
  for (const [c, column] of columns.entries()) {
    const left = LABELS + c * (WIDTH + 90);
    parts.push(text(left, 50, column.title, 'font-weight="bold"'));
    for (const [r, row] of rows.entries()) {
      const top = TOP + r * rowHeight;
      if (c === 0)
        parts.push(text(LABELS - 12, top + rowHeight / 2, row.scenario.title, 'text-anchor="end"'));
      const values = row.measurements.map(({ rounds }) => column.of(medianFigures(rounds)));
      const most = Math.max(...values);
      for (const [i, value] of values.entries()) {
        if (!Number.isFinite(value)) continue;
        const y = top + i * BAR;
        const length = Math.max(1, (value / most) * WIDTH);
        parts.push(
          `<rect x="${left}" y="${y}" width="${length.toFixed(1)}" height="${BAR - 2}" fill="${colour(i)}"/>`,
        );
        parts.push(text(left + length + 5, y + BAR - 3, `${short(value)} ${column.unit}`, 'font-size="9"'));
      }
    }
  }
  const rounds = median(
    rows.flatMap((row) => row.measurements.map((measurement) => measurement.rounds.length)),
  );
  parts.push(text(20, height - 8, `Medians of ${rounds} round${rounds === 1 ? '' : 's'}.`, 'font-size="10"'));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="100%" height="100%" fill="white"/>`,
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

type Medians = ReturnType<typeof medianFigures>;

function cpu(figures: Medians): number {
  return figures.cpuUsPerOperation ?? Number.NaN;
}

function speed(figures: Medians): number {
  return figures.operationsPerSecond;
}

function colour(index: number): string {
  return COLOURS[index % COLOURS.length]!;
}

function short(value: number): string {
  if (value >= 10_000) return `${(value / 1000).toFixed(0)}k`;
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function text(x: number, y: number, content: string, attributes = ''): string {
  const escaped = content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x.toFixed(0)}" y="${y.toFixed(0)}" ${attributes}>${escaped}</text>`;
}
