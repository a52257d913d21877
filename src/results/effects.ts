/**
 * What made the difference in a sweep: the effect of each key on the metric, with its uncertainty.
 *
 * An analysis of variance with main effects: the metric of a point is a mean plus an amount for the level of each key,
 * fitted by least squares, so that keys which happened to vary together are told apart. A level's mean is that of the
 * model over all points, had they this level; its 95 % interval follows from the residuals (Student's t). The share of a
 * key is the part of the variance that the model cannot explain without it, and its p-value that of the F test of that
 * part. Numbers with many values are cut into three groups of equal size.
 */

import type { Metric } from '../base/intervals.ts';
import { mean } from '../base/intervals.ts';
import type { Value } from '../config/schema.ts';
import type { PointView } from '../sweep/leaderboard.ts';

export interface Level {
  label: string;
  count: number;
  mean: number;
  /** Half of the 95 % interval. */
  half: number;
}

export interface Effect {
  key: string;
  levels: Level[];
  /** Between the means of the best and the worst level, and half of its 95 % interval. */
  difference: number;
  half: number;
  best: string;
  worst: string;
  /** Of the variance between points, 0..1. */
  share: number;
  /** How likely chance alone gives so much. */
  p: number;
}

export interface Effects {
  /** Where most points were measured: numbers at different steps do not compare. */
  step: number;
  numPoints: number;
  /** The strongest first. */
  effects: Effect[];
}

const MAX_LEVELS = 4; // numbers with more different values are grouped
const NUM_GROUPS = 3;
const MIN_FREE = 3; // degrees of freedom of the residuals, below which no interval says anything

/** Returns the effects of the keys; undefined where the points are too few to tell any. */
export function findEffects(points: PointView[], keys: string[], metric: Metric): Effects | undefined {
  const measured = chooseStep(points, metric);
  if (measured === undefined) return undefined;
  const { step, found } = measured;
  const factors = keys.flatMap((key) => {
    const levels = groupValues(found.map(({ point }) => point.params[key]));
    return new Set(levels).size > 1 ? [{ key, levels }] : [];
  });
  const values = found.map(({ value }) => value);
  const whole = solve(factors, values);
  // Too many keys for so few points: each by itself, as if the others were noise.
  const isAdditive = whole.free >= MIN_FREE;
  const effects = factors.flatMap((factor) => {
    const own = isAdditive ? whole : solve([factor], values);
    const without = solve(isAdditive ? factors.filter((one) => one !== factor) : [], values);
    return own.free < MIN_FREE ? [] : [measureEffect(factor, own, without, values)];
  });
  return effects.length === 0
    ? undefined
    : { step, numPoints: found.length, effects: effects.sort((a, b) => b.share - a.share) };
}

interface Measured {
  point: PointView;
  value: number;
}

/** The step at which most points were evaluated, the later of two. */
function chooseStep(points: PointView[], metric: Metric): { step: number; found: Measured[] } | undefined {
  const bySteps = new Map<number, Measured[]>();
  for (const point of points) {
    const values = new Map<number, number[]>();
    for (const { rungs, step, ...trial } of point.trials) {
      const all = new Map(rungs.map((rung) => [rung.step, rung[metric]]));
      if (step !== null) all.set(step, trial[metric]);
      for (const [at, value] of all) if (value != null) values.set(at, [...(values.get(at) ?? []), value]);
    }
    for (const [at, some] of values) {
      bySteps.set(at, [...(bySteps.get(at) ?? []), { point, value: mean(some) }]);
    }
  }
  const best = [...bySteps].sort(([a, x], [b, y]) => y.length - x.length || b - a)[0];
  return best === undefined ? undefined : { step: best[0], found: best[1] };
}

type Given = Value | undefined;
const write = (value: Given): string =>
  value === undefined ? '–' : typeof value === 'number' ? String(Number(value.toPrecision(3))) : String(value);

/** Returns the level of each value: itself, or the group of numbers that it is in. */
export function groupValues(values: Given[]): string[] {
  const numbers = values.filter((value): value is number => typeof value === 'number');
  const distinct = [...new Set(numbers)].sort((a, b) => a - b);
  if (distinct.length <= MAX_LEVELS) return values.map(write);
  const sorted = numbers.toSorted((a, b) => a - b);
  const firsts = Array.from(
    { length: NUM_GROUPS },
    (_, at) => sorted[Math.floor((at * sorted.length) / NUM_GROUPS)] ?? 0,
  );
  const groupOf = (value: number): number => firsts.findLastIndex((first) => value >= first);
  const labels = firsts.map((_, group) => {
    const own = distinct.filter((value) => groupOf(value) === group);
    return own.length > 1 ? `${write(own[0])} to ${write(own.at(-1))}` : write(own[0]);
  });
  return values.map((value) => (typeof value === 'number' ? (labels[groupOf(value)] ?? '') : write(value)));
}

interface Factor {
  key: string;
  levels: string[];
}

interface Fit {
  columns: { factor: Factor | undefined; level: string; values: number[] }[];
  coefficients: number[];
  /** Inverse of the normal matrix; rows of columns that others already explain are zero. */
  inverse: number[][];
  /** Sum of squares of the residuals, and their degrees of freedom. */
  residual: number;
  free: number;
}

/** Least squares by the sweep operator (Goodnight, The American Statistician 33, 1979): dependent columns drop out. */
function solve(factors: Factor[], values: number[]): Fit {
  const columns: Fit['columns'] = [{ factor: undefined, level: '', values: values.map(() => 1) }];
  for (const factor of factors)
    for (const level of [...new Set(factor.levels)].slice(1))
      columns.push({ factor, level, values: factor.levels.map((one) => Number(one === level)) });
  const all = [...columns.map((column) => column.values), values];
  const matrix = all.map((a) => all.map((b) => a.reduce((sum, one, at) => sum + one * (b[at] ?? 0), 0)));
  const last = columns.length;
  const diagonal = matrix.map((row, at) => row[at] ?? 0);
  const used = columns.map((_, at) => {
    const isUsed = (matrix[at]?.[at] ?? 0) > 1e-9 * (diagonal[at] ?? 0);
    if (isUsed) sweepOut(matrix, at);
    return isUsed;
  });
  const cell = (row: number, column: number): number => (used[row] && used[column] ? (matrix[row]?.[column] ?? 0) : 0);
  return {
    columns,
    coefficients: columns.map((_, at) => (used[at] ? (matrix[at]?.[last] ?? 0) : 0)),
    inverse: columns.map((_, row) => columns.map((__, column) => cell(row, column))),
    residual: Math.max(0, matrix[last]?.[last] ?? 0),
    free: values.length - used.filter(Boolean).length,
  };
}

function sweepOut(matrix: number[][], at: number): void {
  const pivotRow = matrix[at] ?? [];
  const pivot = pivotRow[at] ?? 1;
  const scaled = pivotRow.map((value) => value / pivot);
  matrix.forEach((row, index) => {
    if (index === at) return;
    const factor = row[at] ?? 0;
    matrix[index] = row.map((value, column) => value - factor * (scaled[column] ?? 0));
    (matrix[index] as number[])[at] = -factor / pivot;
  });
  matrix[at] = scaled;
  scaled[at] = 1 / pivot;
}

function measureEffect(factor: Factor, own: Fit, without: Fit, values: number[]): Effect {
  const { columns, coefficients, free, residual } = own;
  const middle = mean(values);
  const total = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  const explained = Math.max(0, without.residual - residual);
  const t = findT(free);
  const contrastOf = (level: string): number[] =>
    columns.map((column) => (column.factor === factor ? Number(column.level === level) : mean(column.values)));
  const meanOf = (contrast: number[]): number =>
    contrast.reduce((sum, one, at) => sum + one * (coefficients[at] ?? 0), 0);
  const halfOf = (contrast: number[]): number => t * Math.sqrt((residual / free) * measureForm(own.inverse, contrast));
  const levels = [...new Set(factor.levels)].map((label) => {
    const contrast = contrastOf(label);
    const count = factor.levels.filter((one) => one === label).length;
    return { label, count, mean: meanOf(contrast), half: halfOf(contrast), contrast };
  });
  const [best, worst] = [
    levels.reduce((a, b) => (b.mean > a.mean ? b : a)),
    levels.reduce((a, b) => (b.mean < a.mean ? b : a)),
  ];
  const gap = best.contrast.map((one, at) => one - (worst.contrast[at] ?? 0));
  const parts = without.free - free;
  return {
    key: factor.key,
    levels: sortLevels(levels).map(({ contrast: _, ...level }) => level),
    difference: best.mean - worst.mean,
    half: halfOf(gap),
    ...{ best: best.label, worst: worst.label },
    share: total === 0 ? 0 : explained / total,
    p: parts === 0 ? 1 : findP(explained / parts / Math.max(residual / free, 1e-12), parts, free),
  };
}

const measureForm = (matrix: number[][], v: number[]): number =>
  Math.max(
    0,
    v.reduce((sum, a, row) => sum + v.reduce((part, b, column) => part + a * b * (matrix[row]?.[column] ?? 0), 0), 0),
  );

const sortLevels = <T extends Level>(levels: T[]): T[] =>
  levels.sort((a, b) => Number.parseFloat(a.label) - Number.parseFloat(b.label) || (a.label < b.label ? -1 : 1));

/** Returns the chance of an F at least so large with these degrees of freedom. */
export function findP(f: number, parts: number, free: number): number {
  return findBeta(free / (free + parts * f), free / 2, parts / 2);
}

/** Returns the t that 95 % of Student's distribution lies within. */
export function findT(free: number): number {
  let [low, high] = [0, 1000];
  for (let times = 0; times < 60; times++) {
    const middle = (low + high) / 2;
    if (findP(middle ** 2, 1, free) > 0.05) low = middle;
    else high = middle;
  }
  return low;
}

/** The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22). */
function findBeta(x: number, a: number, b: number): number {
  if (x <= 0 || x >= 1) return Math.min(1, Math.max(0, x));
  if (x > (a + 1) / (a + b + 2)) return 1 - findBeta(1 - x, b, a);
  let fraction = 1;
  for (let m = 200; m >= 1; m--) {
    const odd = (-(a + m - 1) * (a + b + m - 1) * x) / ((a + 2 * m - 2) * (a + 2 * m - 1));
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    fraction = 1 + odd / (1 + even / fraction);
  }
  return Math.exp(a * Math.log(x) + b * Math.log(1 - x) - Math.log(a) - logBeta(a, b)) / fraction;
}

const logBeta = (a: number, b: number): number => logGamma(a) + logGamma(b) - logGamma(a + b);

/** Stirling's series behind a few steps of the recurrence (DLMF 5.11.1). */
function logGamma(x: number): number {
  if (x < 10) return logGamma(x + 1) - Math.log(x);
  return (
    (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + 1 / (12 * x) - 1 / (360 * x ** 3) + 1 / (1260 * x ** 5)
  );
}
