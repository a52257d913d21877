/** Where every trial of a cohort stands: what status.json shows, and what the last evaluation found. */

import type { StoredEvent } from '../base/events/event.ts';
import { type Accuracy, pickAccuracy } from '../base/intervals.ts';

export type DropReason = 'pruned' | 'diverged';

export interface TrialStatus extends Accuracy {
  state: 'running' | 'finished' | DropReason;
  step: number;
}

const UNKNOWN: Accuracy = { top1: null, top5: null };

export class Standing {
  readonly #names: string[];
  readonly #gone = new Map<string, TrialStatus>();
  readonly #accuracies = new Map<string, Accuracy>();

  constructor(names: string[]) {
    this.#names = names;
  }

  /** The trials that are left, in the cohort's order. */
  get alive(): string[] {
    return this.#names.filter((name) => !this.#gone.has(name));
  }

  /** Takes over what a checkpoint holds; `dropped` are the run's events up to its step, which say why others left. */
  resume(step: number, opened: string[], dropped: StoredEvent[]): void {
    this.#gone.clear();
    this.#accuracies.clear();
    for (const name of this.#names.filter((one) => !opened.includes(one))) {
      const event = dropped.findLast(({ trial }) => trial === name) as Partial<Accuracy & StoredEvent> | undefined;
      const accuracy = pickAccuracy({ top1: event?.top1 ?? null, top5: event?.top5 ?? null, map: event?.map });
      const state = event?.reason === 'diverged' ? 'diverged' : 'pruned';
      this.#gone.set(name, { state, step: event?.step ?? step, ...accuracy });
    }
  }

  evaluated(results: Record<string, Accuracy>): void {
    for (const [name, result] of Object.entries(results)) this.#accuracies.set(name, pickAccuracy(result));
  }

  drop(name: string, reason: DropReason, step: number): void {
    this.#gone.set(name, { state: reason, step, ...this.accuracyOf(name) });
  }

  accuracyOf(name: string): Accuracy {
    return this.#accuracies.get(name) ?? UNKNOWN;
  }

  /** What the survivors reached. */
  results(): Record<string, Accuracy> {
    return Object.fromEntries(this.alive.map((name) => [name, this.accuracyOf(name)]));
  }

  describe(step: number, state: 'running' | 'finished'): Record<string, TrialStatus> {
    const one = (name: string): TrialStatus => this.#gone.get(name) ?? { state, step, ...this.accuracyOf(name) };
    return Object.fromEntries(this.#names.map((name) => [name, one(name)]));
  }
}
