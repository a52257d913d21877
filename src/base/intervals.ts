/** Accuracies: their names, means and confidence intervals, and whether two differ at all. */

/** What an evaluation found, 0..1. `map` is there where videos have several labels, and stands for the others then. */
export interface Accuracy {
  top1: number | null;
  top5: number | null;
  map?: number | null | undefined;
}

/** What a sweep may choose by. */
export const METRICS = { top1: 'top-1', top5: 'top-5', map: 'mAP' };
export type Metric = keyof typeof METRICS;

/** What stands beside the metric that a sweep chooses by. */
export const otherMetric = (metric: Metric): Metric => (metric === 'top1' ? 'top5' : 'top1');

/** Returns the accuracies alone, those that there are. */
export const pickAccuracy = ({ top1, top5, map }: Accuracy): Accuracy => ({
  ...{ top1, top5 },
  ...(map == null ? {} : { map }),
});

/** Returns the accuracy that counts. */
export const mainMetric = ({ map }: { map?: number | null | undefined }): Metric => (map == null ? 'top1' : 'map');

/** Returns the mean over the classes of the share that was right, from [label, videos, correct] of each. */
export const balance = (perClass: [number, number, number][]): number =>
  mean(perClass.map(([, videos, correct]) => correct / videos));

/** Of one value or more. */
export const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** The 0.975 quantile of the normal distribution: 95 % between both ends. */
const Z = 1.959963984540054;

export interface Interval {
  low: number;
  high: number;
}

/** Returns the 95 % interval of a share of `count` videos, 0..1 (Wilson, JASA 22, 1927): it holds near 0 and 1, too. */
export function findInterval(share: number, count: number): Interval {
  if (count <= 0) return { low: 0, high: 1 };
  const weight = 1 + Z ** 2 / count;
  const centre = (share + Z ** 2 / (2 * count)) / weight;
  const half = (Z / weight) * Math.sqrt((share * (1 - share)) / count + Z ** 2 / (4 * count ** 2));
  return { low: Math.max(0, centre - half), high: Math.min(1, centre + half) };
}

/**
 * Returns whether 95 % of chance alone cannot explain the difference of two shares (Newcombe, Statistics in Medicine
 * 17, 1998, method 10: the Wilson intervals' ends, combined). The videos count as drawn anew for each, which is careful
 * where both were tested on the same ones.
 */
export function differ(a: number, countA: number, b: number, countB: number): boolean {
  const [better, worse] = a >= b ? [a, b] : [b, a];
  const [countBetter, countWorse] = a >= b ? [countA, countB] : [countB, countA];
  const below = better - findInterval(better, countBetter).low;
  const above = findInterval(worse, countWorse).high - worse;
  return better - worse > Math.hypot(below, above);
}

/** `97.2 to 99.9 %`. */
export function showInterval({ low, high }: Interval): string {
  return `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)} %`;
}
