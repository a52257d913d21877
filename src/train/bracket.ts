/** Successive halving (arXiv 1502.07943) inside a cohort: which points go on at a rung. A pure function of the results. */

import type { Accuracy } from '../base/intervals.ts';
import { groupBy } from '../base/objects.ts';
import type { Bracket, CohortFile } from '../run/cohort-types.ts';
import { compareScores, scorePoint } from '../run/ranking.ts';

/** A point of the sweep at a rung: its trials that are left, and the mean of the metric over them. */
export interface RankedPoint {
  point: string;
  /** From 1, the best. */
  rank: number;
  metric: number;
  trials: string[];
  stays: boolean;
}

type Results = Record<string, Accuracy>;

/** Returns the points that are left, the best first; `results` has the trials that are left, others have no vote. */
export function decideRung(
  cohort: Pick<CohortFile, 'metric' | 'trials'>,
  keep: number,
  results: Results,
): RankedPoint[] {
  const points = [...groupBy(cohort.trials, ({ point }) => point)].flatMap(([point, all]) => {
    const left = all.flatMap(({ name }) => {
      const result = results[name];
      return result === undefined ? [] : [{ name, value: result[cohort.metric] ?? null }];
    });
    const values = left.map(({ value }) => value);
    const trials = left.map(({ name }) => name);
    return left.length === 0 ? [] : [{ trials, score: scorePoint(point, values, all.length) }];
  });
  const ranked = points.sort((a, b) => compareScores(a.score, b.score));
  const numLeft = countLeft(ranked.length, keep);
  return ranked.map(({ trials, score: { point, mean } }, index) => {
    return { point, metric: mean ?? 0, trials, rank: index + 1, stays: index < numLeft };
  });
}

/** ceil(keep * points), at least one; 0.28 * 25 is 7.000000000000001 in floating point and means 7. */
export function countLeft(numPoints: number, keep: number): number {
  return Math.max(1, Math.ceil(keep * numPoints - 1e-9));
}

/** The rung that comes next after a step, null when none does. */
export function findNextRung(bracket: Bracket | null, step: number): number | null {
  return bracket?.rungs.find((rung) => rung > step) ?? null;
}
