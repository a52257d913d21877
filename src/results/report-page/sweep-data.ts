/** What the page of `sweep report` hands to its script. */

export interface CurveData {
  trial: string;
  point: string;
  /** [step, value], value of the metric 0..1. */
  loss: [number, number][];
  metric: [number, number][];
}

export interface PointData {
  name: string;
  state: string;
  params: Record<string, string | number | boolean | null>;
  /** Mean over the seeds, 0..1. */
  metric: number | null;
  /** Whether its curves and its line are. */
  drawn: boolean;
}

export interface PageData {
  keys: string[];
  /** The keys, as short as they can be told apart. */
  labels: string[];
  metricLabel: string;
  /** Of the training; null: an older journal does not say. */
  steps: number | null;
  rungs: number[];
  best: string | null;
  curves: CurveData[];
  points: PointData[];
}
