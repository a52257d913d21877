/** What the bench programs in TypeScript share: the same lines as timing.py writes. */
import { loadavg } from 'node:os';

export interface Asked {
  /** Where the goal is below it, smaller is better. */
  least?: number;
  goal?: number;
  most?: number;
  [detail: string]: unknown;
}

/** Prints one figure: a number, or the median of several with their spread. */
export function emit(name: string, value: number | number[], asked: Asked = {}): void {
  const values = [value].flat();
  const spread = values.length > 1 ? { low: Math.min(...values), high: Math.max(...values) } : {};
  const { least = null, goal = null, ...details } = asked;
  const line = { name, ratio: median(values), ...spread, least, goal, ...details, load: loadavg()[0] };
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? (sorted[middle] ?? Number.NaN) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}
