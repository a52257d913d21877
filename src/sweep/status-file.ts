/** status.json of a sweep: where it stands, written about each second while its runner lives. */

import { join } from 'node:path';
import { mean } from '../base/intervals.ts';
import { describeWriter } from '../run/liveness.ts';
import type { StoredStatus } from '../run/status.ts';
import type { SweepState } from './journal.ts';
import { rankFinished } from './leaderboard.ts';
import { readCohortStatus, writeJson } from './tasks.ts';

const PERIOD_SECONDS = 1;

export type PulseState = 'running' | 'finished' | 'interrupted' | 'failed';

export class Pulse {
  readonly #dir: string;
  readonly #state: SweepState;
  readonly #slots: number;
  #last = 0;
  #live: { running: Live[]; etaSeconds: number | null } = { running: [], etaSeconds: null };
  #best: { numResults: number; best: object | null } = { numResults: -1, best: null };

  constructor(dir: string, state: SweepState, slots: number) {
    this.#dir = dir;
    this.#state = state;
    this.#slots = slots;
  }

  /** Writes the status unless it is fresh. Returns it when it was written. */
  beat(): object | undefined {
    if (Date.now() - this.#last < PERIOD_SECONDS * 1000) return undefined;
    return this.write('running');
  }

  write(state: PulseState, message?: string): object {
    this.#last = Date.now();
    const { sweep, results } = this.#state;
    const cohorts = this.#lookAtCohorts();
    const etaSeconds = state === 'running' ? this.#estimate(cohorts.running, cohorts.counts.waiting) : null;
    this.#live = { running: cohorts.running, etaSeconds };
    const status = {
      ...{ state, message, name: sweep?.name, metric: sweep?.metric },
      ...{ trials: this.#countTrials(cohorts.running), cohorts: cohorts.counts },
      best: this.#findBest(results.size),
      eta_seconds: etaSeconds,
      seconds: sumSeconds(this.#state),
      ...describeWriter(),
    };
    writeJson(join(this.#dir, 'status.json'), status);
    return status;
  }

  /** What moves in the sweep, as of the last beat: the first cohort that runs, and how far all are. */
  describeLive(): { share: number; place: string; loss: number | null; etaSeconds: number | null } {
    const { running, etaSeconds } = this.#live;
    const { trials, results } = this.#state;
    const parts = running.map(({ numTrials, status }) => (numTrials * (status?.step ?? 0)) / (status?.steps ?? 1));
    const share = parts.reduce((sum, part) => sum + part, results.size) / trials.size;
    const [first] = running;
    const more = running.length > 1 ? ` +${running.length - 1}` : '';
    const place = first === undefined ? (this.#isFinal() ? 'final evaluation' : '') : `${describeCohort(first)}${more}`;
    return { share, place, loss: first?.status?.loss ?? null, etaSeconds };
  }

  #isFinal(): boolean {
    const last = this.#state.attempts.get('final')?.at(-1);
    return last !== undefined && last.ended === undefined;
  }

  #lookAtCohorts(): { counts: Record<CohortState, number>; running: Live[] } {
    const counts = { waiting: 0, running: 0, finished: 0, failed: 0 };
    const running: Live[] = [];
    for (const { cohort, trials } of this.#state.cohorts.values()) {
      if (this.#state.replaced.has(cohort)) continue;
      const last = this.#state.attempts.get(cohort)?.at(-1);
      const state = judgeCohort(last?.ended?.outcome, last !== undefined);
      counts[state] += 1;
      if (state !== 'running' || last === undefined) continue;
      const status = readCohortStatus(join(this.#dir, 'cohorts', cohort), last.attempt);
      running.push({
        name: cohort,
        status,
        numTrials: trials.length,
        seconds: (Date.now() - Date.parse(last.began)) / 1000,
      });
    }
    return { counts, running };
  }

  #countTrials(running: Live[]): Record<string, number> {
    const counts: Record<string, number> = { waiting: 0, running: 0, finished: 0, pruned: 0, diverged: 0, failed: 0 };
    for (const { state } of this.#state.results.values()) counts[state] = (counts[state] ?? 0) + 1;
    counts.running = running.reduce((sum, { numTrials }) => sum + numTrials, 0);
    counts.waiting = Math.max(0, this.#state.trials.size - this.#state.results.size - counts.running);
    return counts;
  }

  #findBest(numResults: number): object | null {
    if (numResults !== this.#best.numResults) {
      const [first] = rankFinished(this.#state);
      const best = first === undefined ? null : { ...first, trial: first.trials[0]?.trial, trials: undefined };
      this.#best = { numResults, best };
    }
    return this.#best.best;
  }

  /** Seconds to the end of all cohorts that are planned; null until one has said how long it takes. */
  #estimate(running: Live[], numWaiting: number): number | null {
    const ended = [...this.#state.attempts.values()].flat().filter((one) => one.ended?.outcome === 'finished');
    const wholes = ended.map((one) => one.ended?.seconds ?? 0);
    const lefts = running.map(({ status }) => status?.eta_seconds ?? null);
    running.forEach(({ seconds }, index) => {
      const left = lefts[index];
      if (wholes.length < running.length && left !== null && left !== undefined) wholes.push(seconds + left);
    });
    if (wholes.length === 0) return null;
    const whole = mean(wholes);
    const busy = running.map(({ seconds }, index) => lefts[index] ?? Math.max(0, whole - seconds));
    const sum = busy.reduce((total, left) => total + left, 0) + numWaiting * whole;
    return Math.max(...busy, sum / this.#slots, 0);
  }
}

type CohortState = 'waiting' | 'running' | 'finished' | 'failed';
interface Live {
  name: string;
  status: StoredStatus | undefined;
  numTrials: number;
  seconds: number;
}

function describeCohort({ name, status }: Live): string {
  if (status === undefined) return `${name} starts`;
  const { evaluating, step, steps } = status;
  return evaluating === null
    ? `${name} ${step}/${steps}`
    : `${name} evaluates ${evaluating.num_seen}/${evaluating.num_total}`;
}

function judgeCohort(outcome: string | undefined, hasBegun: boolean): CohortState {
  if (outcome === 'finished' || outcome === 'failed') return outcome;
  return hasBegun && outcome === undefined ? 'running' : 'waiting';
}

/** Seconds of all attempts that have ended, the lost ones too: what the sweep has cost. */
export function sumSeconds(state: SweepState): number {
  return [...state.attempts.values()].flat().reduce((sum, { ended }) => sum + (ended?.seconds ?? 0), 0);
}
