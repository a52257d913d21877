/** The one rule by which the points of a sweep are ranked: at a rung, in the leaderboard, and for the final choice. */

import { mean } from '../base/intervals.ts';

/** Trials that differ in their seed only. */
export interface Score {
  point: string;
  /** Over the trials that count; null: none has a number. */
  mean: number | null;
  /** Every seed counts; one that diverged, failed or waits does not. */
  isWhole: boolean;
}

/** Returns the score of a point of so many seeds from the numbers of those that count. */
export function scorePoint(point: string, values: (number | null)[], numSeeds: number): Score {
  const known = values.filter((value) => value !== null);
  return { point, mean: known.length === 0 ? null : mean(known), isWhole: values.length >= numSeeds };
}

/** Orders points, the best first: those that lost a seed come after the whole ones, and names decide ties. */
export function compareScores(a: Score, b: Score): number {
  return Number(b.isWhole) - Number(a.isWhole) || (b.mean ?? -1) - (a.mean ?? -1) || compareNames(a.point, b.point);
}

export const compareNames = (a: string, b: string): number => (a < b ? -1 : Number(a > b));
