/** Successive halving (arXiv 1502.07943) inside a cohort: which points go on at a rung. A pure function of the results. */

import type { Bracket, CohortFile, Metric } from '../run/cohort-types.ts';

/** A point of the sweep at a rung: its trials that are left, and the mean of the metric over them. */
export interface RankedPoint {
  point: string;
  /** From 1, the best. */
  rank: number;
  metric: number;
  trials: string[];
  stays: boolean;
}

type Results = Record<string, Record<Metric, number>>;

/** Returns the points that are left, the best first; `results` has the trials that are left, others have no vote. */
export function decideRung(
  cohort: Pick<CohortFile, 'metric' | 'trials'>,
  keep: number,
  results: Results,
): RankedPoint[] {
  const points = new Map<string, { trials: string[]; values: number[] }>();
  for (const { name, point } of cohort.trials) {
    const result = results[name];
    if (result === undefined) continue;
    const { trials, values } = points.get(point) ?? { trials: [], values: [] };
    points.set(point, { trials: [...trials, name], values: [...values, result[cohort.metric]] });
  }
  const ranked = [...points].map(([point, { trials, values }]) => ({ point, metric: mean(values), trials }));
  ranked.sort((a, b) => b.metric - a.metric || (a.point < b.point ? -1 : 1));
  const numLeft = countLeft(ranked.length, keep);
  return ranked.map((one, index) => ({ ...one, rank: index + 1, stays: index < numLeft }));
}

/** ceil(keep * points), at least one; 0.28 * 25 is 7.000000000000001 in floating point and means 7. */
export function countLeft(numPoints: number, keep: number): number {
  return Math.max(1, Math.ceil(keep * numPoints - 1e-9));
}

/** The rung that comes next after a step, null when none does. */
export function findNextRung(bracket: Bracket | null, step: number): number | null {
  return bracket?.rungs.find((rung) => rung > step) ?? null;
}

export function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
