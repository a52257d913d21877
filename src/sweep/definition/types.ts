/** The types of a sweep: its space, its points, its resolved file. */

import type { Metric } from '../../base/intervals.ts';
import type { Config, Draft, Params, Value } from '../../config/schema.ts';
import type { SweepExecutor } from '../../executors/executor.ts';
import type { Bracket } from '../../run/cohort-types.ts';

/** What a key may be in a sweep: one of `values`, or a number of `range`. */
export interface SpaceKey {
  key: string;
  values: Value[] | null;
  range: Range | null;
  /** The key is varied only where all of these keys are, and have one of these values; else it is the base's. */
  when: Record<string, Value[]>;
}

/** From `low` to `high`, both included, evenly in the number or its logarithm; steps are counted from `low`. */
export interface Range {
  low: number;
  high: number;
  log: boolean;
  step: number | null;
  is_integer: boolean;
}

/** A place in the space; only the keys that are varied there. */
export interface Point {
  /** p0001 ... */
  name: string;
  params: Params;
}

/** sweep.json: a sweep file with nothing left implicit; paths are absolute. */
export interface Sweep {
  format: number;
  name: string;
  file: string;
  base: string;
  method: 'grid' | 'random' | 'tpe';
  /** Points to try; null: all of the grid. */
  trials: number | null;
  seeds: number[];
  seed: number;
  objective: Metric;
  selection: 'separate' | 'validation';
  /** null under data.dummy only. */
  selection_list: string | null;
  selection_root: string | null;
  bracket: Bracket | null;
  tpe: { round: number | null };
  executor: SweepExecutor;
  cohort: { max_trials: number | null };
  space: SpaceKey[];
  /** The base with `set`, before anything is derived: what points change. */
  draft: Draft;
  /** The same, resolved, with its own validation list. */
  config: Config;
}
