/** Points of a sweep by how good they are: means over seeds, and an order that compares only what can be compared. */

import type { Params } from '../config/schema.ts';
import type { Metric } from '../run/cohort-types.ts';

export type TrialState = 'waiting' | 'running' | 'stopped' | 'finished' | 'pruned' | 'diverged' | 'failed';

export interface TrialView {
  name: string;
  point: string;
  params: Params;
  seed: number;
  cohort: string | null;
  state: TrialState;
  step: number | null;
  top1: number | null;
  top5: number | null;
  rungs: { step: number; top1: number | null; top5: number | null }[];
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
  numCounted: number;
  trials: TrialView[];
}

/** In this order: what ended well, what may still, what left early, what gave nothing. */
const STATES: TrialState[] = ['finished', 'running', 'stopped', 'pruned', 'diverged', 'failed', 'waiting'];

/** Only points at the same step can be compared: those that came further stand first, after them those that lack a seed. */
export function rankPoints(trials: TrialView[], metric: Metric): PointView[] {
  const groups = new Map<string, TrialView[]>();
  for (const trial of trials) {
    const group = groups.get(trial.point);
    if (group === undefined) groups.set(trial.point, [trial]);
    else group.push(trial);
  }
  const points = [...groups.values()].map(summarisePoint);
  const places = points.map((point) => ({ point, place: placePoint(point, metric) }));
  places.sort((a, b) => comparePlaces(a.place, b.place) || (a.point.point < b.point.point ? -1 : 1));
  return places.map(({ point }, index) => Object.assign(point, { rank: point[metric] === null ? null : index + 1 }));
}

/** What decides, in this order; the smaller the better. */
function placePoint(point: PointView, metric: Metric): number[] {
  const lacks = point.numCounted < point.trials.length;
  return [STATES.indexOf(point.state), -(point.step ?? -1), Number(lacks), -(point[metric]?.mean ?? -1)];
}

function comparePlaces(a: number[], b: number[]): number {
  for (let at = 0; at < a.length; at++) {
    const difference = (a[at] ?? 0) - (b[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function summarisePoint(trials: TrialView[]): PointView {
  const [first] = trials;
  if (first === undefined) throw new Error('a point without trials');
  const state = STATES.find((one) => trials.some((trial) => trial.state === one)) ?? 'waiting';
  const counted = trials.filter((trial) => trial.state === state);
  const step = counted.reduce<number | null>((most, trial) => Math.max(most ?? 0, trial.step ?? 0), null);
  const top = (name: Metric): Summary | null =>
    summarise(counted.map((trial) => trial[name]).filter((value) => value !== null));
  const { point, params } = first;
  const numCounted = counted.length;
  const reached = state === 'waiting' ? null : step;
  return { rank: null, point, params, state, step: reached, top1: top('top1'), top5: top('top5'), numCounted, trials };
}

/** Returns mean and standard deviation of values 0..1, null without any. */
export function summarise(values: number[]): Summary | null {
  if (values.length === 0) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length === 1) return { mean, spread: null };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, spread: Math.sqrt(squares / (values.length - 1)) };
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
