/** What the page of `report` hands to its script. */

/** From, to, videos, mean confidence, share that is right. */
export type Bin = [number, number, number, number, number];

export interface RunPageData {
  /** Names by label. */
  classes: string[];
  /** Label, predicted class, videos. */
  confusion: [number, number, number][];
  /** Classes, those side by side that are taken for each other. */
  order: number[];
  /** Label, predicted class, video; the most confident first, perhaps not all. */
  mistakes: [number, number, string][];
  steps: number | null;
  metricLabel: string;
  /** [step, value] */
  loss: [number, number][];
  rate: [number, number][];
  /** Step, value, and its 95 % interval where there is one. */
  metric: { step: number; value: number; low: number | null; high: number | null }[];
  reliability: { before: Bin[]; after: Bin[] | null };
}
