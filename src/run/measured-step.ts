/** The time of a training step, measured by an earlier run of the same work: a plan in hours needs it. */

import { existsSync, readFileSync } from 'node:fs';
import { basename, extname, join } from 'node:path';
import type { Config } from '../config/schema.ts';

/** Late steps: the first ones load and warm up. */
const NUM_STEPS = 20;

export interface MeasuredStep {
  seconds: number;
  /** The run it was measured in. */
  dir: string;
}

/** Returns the median step of the base's own run (`runs/<name of the file>`), null where none did the same work. */
export function findMeasuredStep(base: string, config: Config, runs = 'runs'): MeasuredStep | null {
  const dir = join(runs, basename(base, extname(base)));
  const [file, events] = [join(dir, 'config.json'), join(dir, 'events.jsonl')];
  if (!existsSync(file) || !existsSync(events)) return null;
  try {
    if (describeWork(JSON.parse(readFileSync(file, 'utf8'))) !== describeWork(config)) return null;
    const seconds = readStepSeconds(readFileSync(events, 'utf8'));
    return seconds === null ? null : { seconds, dir };
  } catch {
    return null; // no run of ours, or of a version that wrote otherwise: then nothing is known
  }
}

/** What a step's time follows from, besides the machine. */
function describeWork({ data, model, train }: Config): string {
  const { preset, width, num_layers, freeze } = model.backbone;
  const { num_frames, size, features } = data;
  return JSON.stringify([
    preset,
    width,
    num_layers,
    freeze,
    num_frames,
    size,
    features,
    train.batch_size,
    train.precision,
  ]);
}

function readStepSeconds(events: string): number | null {
  const lines = events.split('\n').filter((line) => line.includes('"kind":"step"'));
  const seconds = lines
    .slice(-NUM_STEPS)
    .map((line) => Number((JSON.parse(line) as { step_seconds: number }).step_seconds));
  return seconds.sort((a, b) => a - b)[Math.floor(seconds.length / 2)] ?? null;
}
