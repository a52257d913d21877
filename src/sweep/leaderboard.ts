/** Points of a sweep by how good they are: means over seeds, and an order that compares only what can be compared. */

import { type Accuracy, type Metric, mean } from '../base/intervals.ts';
import { groupBy } from '../base/objects.ts';
import type { Params } from '../config/schema.ts';
import { compareNames, compareScores, scorePoint } from '../run/ranking.ts';
import type { SweepState, TrialResult } from './journal.ts';

export type TrialState = 'waiting' | 'running' | 'stopped' | 'finished' | 'pruned' | 'diverged' | 'failed';

export interface TrialView extends Accuracy {
  name: string;
  point: string;
  params: Params;
  seed: number;
  cohort: string | null;
  state: TrialState;
  step: number | null;
  rungs: ({ step: number } & Accuracy)[];
  why: string | null;
}

export interface Summary {
  mean: number;
  /** Standard deviation over the seeds (n - 1); null with one seed. */
  spread: number | null;
}

/** Trials that differ in their seed only. Numbers are over those seeds that came furthest: the ones in `state`. */
export interface PointView {
  rank: number | null;
  point: string;
  params: Params;
  state: TrialState;
  step: number | null;
  top1: Summary | null;
  top5: Summary | null;
  map: Summary | null;
  numCounted: number;
  trials: TrialView[];
}

/** In this order: what ended well, what may still, what left early, what gave nothing. */
const STATES: TrialState[] = ['finished', 'running', 'stopped', 'pruned', 'diverged', 'failed', 'waiting'];

/** Only points at the same step can be compared: those that came further stand first, after them those that lack a seed. */
export function rankPoints(trials: TrialView[], metric: Metric): PointView[] {
  const points = [...groupBy(trials, ({ point }) => point).values()].map(summarisePoint);
  const placed = points.map((point) => {
    const counted = point.trials.filter(({ state }) => state === point.state);
    const score = scorePoint(
      point.point,
      counted.map((trial) => trial[metric] ?? null),
      point.trials.length,
    );
    return { point, stage: STATES.indexOf(point.state), step: point.step ?? -1, score };
  });
  placed.sort((a, b) => a.stage - b.stage || b.step - a.step || compareScores(a.score, b.score));
  return placed.map(({ point }, index) => Object.assign(point, { rank: point[metric] === null ? null : index + 1 }));
}

export interface FinishedPoint {
  point: string;
  /** The best first. */
  trials: TrialResult[];
  mean: number;
}

/** The points that finished, by the same rule: what the best trial is chosen by. */
export function rankFinished({ sweep, results }: SweepState): FinishedPoint[] {
  const metric = sweep?.metric ?? 'top1';
  const metricOf = (one: TrialResult): number => one[metric] ?? 0;
  const finished = [...results.values()].filter((one) => one.state === 'finished' && one[metric] != null);
  const points = [...groupBy(finished, ({ point }) => point)].map(([point, trials]) => {
    const sorted = trials.toSorted((a, b) => metricOf(b) - metricOf(a) || compareNames(a.trial, b.trial));
    return { trials: sorted, score: scorePoint(point, sorted.map(metricOf), sweep?.seeds.length ?? 1) };
  });
  points.sort((a, b) => compareScores(a.score, b.score));
  return points.map(({ trials, score: { point, mean } }) => ({ point, trials, mean: mean ?? 0 }));
}

function summarisePoint(trials: TrialView[]): PointView {
  const [first] = trials;
  if (first === undefined) throw new Error('a point without trials');
  const state = STATES.find((one) => trials.some((trial) => trial.state === one)) ?? 'waiting';
  const counted = trials.filter((trial) => trial.state === state);
  const step = counted.reduce<number | null>((most, trial) => Math.max(most ?? 0, trial.step ?? 0), null);
  const top = (name: Metric): Summary | null =>
    summarise(counted.map((trial) => trial[name] ?? null).filter((value) => value !== null));
  const { point, params } = first;
  const numCounted = counted.length;
  const reached = state === 'waiting' ? null : step;
  const found = { top1: top('top1'), top5: top('top5'), map: top('map') };
  return { rank: null, point, params, state, step: reached, ...found, numCounted, trials };
}

/** Returns mean and standard deviation of values 0..1, null without any. */
export function summarise(values: number[]): Summary | null {
  if (values.length === 0) return null;
  const middle = mean(values);
  if (values.length === 1) return { mean: middle, spread: null };
  const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
  return { mean: middle, spread: Math.sqrt(squares / (values.length - 1)) };
}

/** Returns the shortest endings of dotted keys that still tell them apart. */
export function shortenKeys(keys: string[]): string[] {
  const ending = (key: string, num: number): string => key.split('.').slice(-num).join('.');
  return keys.map((key) => {
    let num = 1;
    while (keys.some((other) => other !== key && ending(other, num) === ending(key, num))) num += 1;
    return ending(key, num);
  });
}
