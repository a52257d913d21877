/** status.json of a run, a cohort or a sweep, as a reader finds it. */

import { readFileSync } from 'node:fs';
import { FAILURE_CLASSES, type FailureClass } from '../base/errors.ts';
import { type Accuracy, pickAccuracy } from '../base/intervals.ts';
import { isSection } from '../base/objects.ts';
import type { Writer } from './liveness.ts';

export interface StoredTrial extends Accuracy {
  state: string | null;
  step: number | null;
}

/** null for what is not there, or not yet: another version may have written it. */
export interface StoredStatus extends Required<Writer> {
  state: string | null;
  attempt: number | null;
  step: number | null;
  steps: number | null;
  rung: number | null;
  loss: number | null;
  eta_seconds: number | null;
  message: string | null;
  class: FailureClass | null;
  evaluating: { num_seen: number | null; num_total: number | null } | null;
  trials: Record<string, StoredTrial>;
}

const numberOf = (value: unknown): number | null => (typeof value === 'number' ? value : null);
const textOf = (value: unknown): string | null => (typeof value === 'string' ? value : null);
const sectionOf = (value: unknown): Record<string, unknown> => (isSection(value) ? value : {});

/** Returns the status; undefined when nothing has written one yet. Not by a schema: loading zod takes as long as all
 * else that `sweep status` does. */
export function readStatus(file: string): StoredStatus | undefined {
  let told: unknown;
  try {
    told = JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
  if (!isSection(told)) return undefined;
  const { evaluating } = told;
  const { num_seen, num_total } = sectionOf(evaluating);
  return {
    ...{ state: textOf(told.state), updated: textOf(told.updated), message: textOf(told.message) },
    ...{ attempt: numberOf(told.attempt), step: numberOf(told.step), steps: numberOf(told.steps) },
    ...{ rung: numberOf(told.rung), loss: numberOf(told.loss), eta_seconds: numberOf(told.eta_seconds) },
    ...{ pid: numberOf(told.pid), host: textOf(told.host), birth: textOf(told.birth) },
    class: FAILURE_CLASSES.find((one) => one === told.class) ?? null,
    evaluating: isSection(evaluating) ? { num_seen: numberOf(num_seen), num_total: numberOf(num_total) } : null,
    trials: Object.fromEntries(Object.entries(sectionOf(told.trials)).map(([name, one]) => [name, readTrial(one)])),
  };
}

function readTrial(told: unknown): StoredTrial {
  const { state, step, top1, top5, map } = sectionOf(told);
  const accuracy = pickAccuracy({ top1: numberOf(top1), top5: numberOf(top5), map: numberOf(map) });
  return { state: textOf(state), step: numberOf(step), ...accuracy };
}
