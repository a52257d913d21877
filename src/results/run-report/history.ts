/** What the journal of a run tells a report: curves, what training waited for, what went wrong. */

import { createReadStream, existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { mean } from '../../base/intervals.ts';

const MAX_CURVE_POINTS = 300;

export interface Incident {
  time: string;
  step: number | null;
  what: string;
}

export interface History {
  loss: [number, number][];
  rate: [number, number][];
  metric: [number, number][];
  /** Share of a step's time that it waited for data, 0..1; null: no step was told. */
  waiting: number | null;
  clipsPerSecond: number | null;
  /** From the first line of the journal to the last. */
  seconds: number | null;
  incidents: Incident[];
}

interface Line {
  time: string;
  kind: string;
  step: number | null;
  trial?: string;
  [field: string]: unknown;
}

/** Reads events.jsonl line by line, the events of one trial. Steps that a resume repeated count once: the last. */
export async function readHistory(file: string, trial: string, metric: 'top1' | 'map'): Promise<History> {
  const [losses, rates, metrics] = [new Map<number, number>(), new Map<number, number>(), new Map<number, number>()];
  const steps = new Map<number, { data: number; step: number; clips: number }>();
  const incidents: Incident[] = [];
  const times: string[] = [];
  for await (const event of readLines(file)) {
    times[times.length === 0 ? 0 : 1] = event.time;
    const step = event.step ?? 0;
    if (event.kind === 'step' && event.trial === trial) {
      losses.set(step, numberOf(event.loss));
      rates.set(step, numberOf(event.lr));
      const told = { data: numberOf(event.data_seconds), step: numberOf(event.step_seconds) };
      steps.set(step, { ...told, clips: numberOf(event.clips_per_second) });
    }
    if (event.kind === 'evaluated' && event.trial === trial) metrics.set(step, numberOf(event[metric]));
    const what = describeIncident(event, trial);
    if (what !== undefined) incidents.push({ time: event.time, step: event.step, what });
  }
  const told = [...steps.values()].filter(({ data, step }) => Number.isFinite(data) && step > 0);
  const [first, last] = times;
  return {
    ...{ loss: thinCurve(losses), rate: thinCurve(rates), metric: thinCurve(metrics), incidents },
    waiting: told.length === 0 ? null : mean(told.map(({ data }) => data)) / mean(told.map(({ step }) => step)),
    clipsPerSecond: told.length === 0 ? null : mean(told.map(({ clips }) => clips)),
    seconds: first === undefined || last === undefined ? null : (Date.parse(last) - Date.parse(first)) / 1000,
  };
}

const numberOf = (value: unknown): number => (typeof value === 'number' ? value : Number.NaN);

function describeIncident(event: Line, trial: string): string | undefined {
  const why = String(event.why ?? event.message ?? '').split('\n', 1)[0];
  if (event.kind === 'restarted') return `started again: ${why}`;
  if (event.kind === 'interrupted') return 'stopped on request, its state saved';
  if (event.kind === 'failed') return `failed: ${why}`;
  if (event.kind === 'left_out') return 'a step left out: no clip of its batch could be read';
  if (event.kind === 'dropped' && event.trial === trial) return `the trial ended: ${why}`;
  return undefined;
}

async function* readLines(file: string): AsyncGenerator<Line> {
  if (!existsSync(file)) return;
  for await (const line of createInterface({ input: createReadStream(file) })) {
    try {
      yield JSON.parse(line) as Line;
    } catch {
      // torn by a kill, or being written
    }
  }
}

/** Returns at most MAX_CURVE_POINTS [step, value] in the order of steps: means over equal numbers of neighbours. */
export function thinCurve(values: Map<number, number>): [number, number][] {
  const all = [...values].filter(([, value]) => Number.isFinite(value)).sort(([a], [b]) => a - b);
  const size = Math.ceil(all.length / MAX_CURVE_POINTS);
  const starts = Array.from({ length: Math.ceil(all.length / size) || 0 }, (_, index) => index * size);
  return starts.map((start): [number, number] => {
    const part = all.slice(start, start + size);
    return [part.at(-1)?.[0] ?? 0, Number(mean(part.map(([, value]) => value)).toPrecision(5))];
  });
}
