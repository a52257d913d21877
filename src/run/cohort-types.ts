/** What a cohort is: trials that share clips and a frozen backbone pass, and the rungs at which the worse ones end. */

import type { Metric } from '../base/intervals.ts';
import type { Config, Params } from '../config/schema.ts';

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

/** cohort.json: what `train --cohort` runs. Trials share everything up to the features of the frozen backbone. */
export interface CohortFile {
  format: number;
  /** c0001 ... */
  name: string;
  metric: Metric;
  bracket: Bracket | null;
  trials: Trial[];
}
