/**
 * What a look has found: `problem` keeps somebody from working or costs data, `warning` may, `note`
 * is worth knowing.
 */
export interface Finding {
  readonly level: 'ok' | 'note' | 'warning' | 'problem';
  /** What it is about: `/dev/kvm`, `export data`. */
  readonly about: string;
  /** What there is, in plain words. */
  readonly text: string;
  /** What to do about it. */
  readonly advice?: string;
}

/** Findings in lines, the worst first. */
export function findingLines(findings: readonly Finding[]): string[] {
  const order = ['problem', 'warning', 'note', 'ok'];
  return findings
    .toSorted((a, b) => order.indexOf(a.level) - order.indexOf(b.level))
    .flatMap(({ level, about, text, advice }) => [
      `${level.padEnd(7)}  ${about}: ${text}`,
      ...(advice === undefined ? [] : [`         ${advice}`]),
    ]);
}
