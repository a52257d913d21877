/** Attempts at tasks, as journals keep them: each is written down before its start, and again when it has ended. */

import type { FailureClass } from '../base/errors.ts';
import type { Timed } from './journal-file.ts';

export type Outcome = 'finished' | 'retry' | 'failed' | 'cancelled';

export interface Ending {
  outcome: Outcome;
  class: FailureClass | 'cancelled' | null;
  why: string | null;
  seconds: number;
  /** That the next attempt goes on from; none where nothing is saved. */
  step?: number;
}

export interface Attempt {
  attempt: number;
  key: string;
  began: string;
  handle?: string;
  ended?: Ending;
}

/** `cohort`: the name of the task, whatever it does. */
export type AttemptEntry =
  | { kind: 'attempt'; cohort: string; attempt: number; key: string }
  | { kind: 'launched'; cohort: string; attempt: number; handle: string }
  | ({ kind: 'ended'; cohort: string; attempt: number } & Ending);

/** Takes one entry into what is known, by task. */
export function takeAttempt(known: Map<string, Attempt[]>, entry: Timed<AttemptEntry>): void {
  const attempts = known.get(entry.cohort) ?? [];
  known.set(entry.cohort, attempts);
  if (entry.kind === 'attempt') {
    attempts.push({ attempt: entry.attempt, key: entry.key, began: entry.time });
    return;
  }
  const attempt = attempts.find((one) => one.attempt === entry.attempt);
  if (attempt === undefined) return;
  if (entry.kind === 'launched') attempt.handle = entry.handle;
  else {
    const { outcome, class: failure, why, seconds, step } = entry;
    attempt.ended = { outcome, class: failure, why, seconds, ...(step === undefined ? {} : { step }) };
  }
}
