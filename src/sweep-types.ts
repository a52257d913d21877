/** What the rooms of the sweep hand each other: trials, cohorts, brackets. */

import type { Config, Draft } from './config-schema.ts';

export type Value = string | number | boolean | null;
/** Dotted keys of the configuration. */
export type Params = Record<string, Value>;

/** Keys of `train` that a trial of a cohort may have for itself, besides all of `model` behind the backbone. */
export const TRIAL_TRAIN_KEYS = [
  ...['lr', 'backbone_lr', 'weight_decay', 'decay_all', 'warmup_steps', 'clip_grad_norm'],
  ...['label_smoothing', 'ema_decay', 'seed'],
];

/** One configuration to train. Points of a sweep with several seeds have one trial a seed. */
export interface Trial {
  /** t0001 ...: names files, so letters and digits only. */
  name: string;
  /** p0001 ...: trials that differ in their seed only share it; pruning and ranking go by the mean over it. */
  point: string;
  /** What this trial sets in the space, dotted keys; without the seed. */
  params: Params;
  seed: number;
  settings: Config;
}

/** Successive halving: at each rung (an optimizer step) the best `keep` (0..1) of the points that are left go on. */
export interface Bracket {
  rungs: number[];
  keep: number;
}

export type Metric = 'top1' | 'top5';

/** cohort.json: what `train --cohort` runs. Trials share everything up to the features of the frozen backbone. */
export interface CohortFile {
  format: 1;
  /** c0001 ... */
  name: string;
  metric: Metric;
  bracket: Bracket | null;
  trials: Trial[];
}

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

export interface SweepExecutor {
  kind: 'local' | 'slurm' | 'ray';
  slots: number;
  /** Of one slot; null: what the machine has. */
  memory_bytes: number | null;
  max_attempts: number;
  failure: 'no-new' | 'continue' | 'kill';
  /** A job that shows no progress for so long is lost; null: the configuration's launch.stall_seconds. */
  stall_seconds: number | null;
  poll_seconds: number;
  slurm: {
    partition: string | null;
    account: string | null;
    time: string | number | null;
    gres: string | null;
    cpus_per_task: number | null;
    memory: string | null;
    extra: string[];
  };
  ray: { address: string; num_cpus: number | null; num_gpus: number | null };
}

/** sweep.json: a sweep file with nothing left implicit; paths are absolute. */
export interface Sweep {
  format: 1;
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
