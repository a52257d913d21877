/** The journal of a sweep: an append-only file, synced line by line, and the state that follows from it alone. */

import type { Accuracy, Metric } from '../base/intervals.ts';
import type { Params } from '../config/schema.ts';
import { readFormat } from '../config/stored-format.ts';
import { type Attempt, type AttemptEntry, takeAttempt } from '../executors/attempts.ts';
import { JournalFile, type Timed } from '../executors/journal-file.ts';
import type { Bracket } from '../run/cohort-types.ts';

export interface TrialLine {
  name: string;
  point: string;
  params: Params;
  seed: number;
}

export interface CohortLine {
  cohort: string;
  trials: string[];
  forecast_bytes: number | null;
  /** Operations of the cohort, and of its trials each run alone. */
  cost: { together: number; alone: number } | null;
  /** Set where a trial did not fit into memory otherwise; its numbers may differ in the last digits. */
  micro_batches?: number;
}

export interface TrialResult extends Accuracy {
  trial: string;
  point: string;
  cohort: string;
  state: 'finished' | 'pruned' | 'diverged' | 'failed';
  step: number | null;
  rungs: ({ step: number } & Accuracy)[];
  why: string | null;
}

export interface FinalResult extends Accuracy {
  trial: string;
  point: string;
  seed: number;
  num_videos: number;
  list: string | null;
}

export interface SweepLine {
  /** Of the journal; older ones say none. */
  format?: number;
  /** Part of every attempt's key. */
  id: string;
  name: string;
  method: string;
  metric: Metric;
  selection: 'separate' | 'validation';
  selection_list: string | null;
  val_list: string | null;
  num_points: number | null;
  seeds: number[];
  bracket: Bracket | null;
  base: string;
  steps: number;
  executor: string;
}

export type Entry =
  | ({ kind: 'sweep' } & SweepLine)
  | { kind: 'trials'; round: number; trials: TrialLine[] }
  | ({ kind: 'cohort' } & CohortLine)
  | AttemptEntry
  | { kind: 'split'; cohort: string; into: string[]; why: string }
  | ({ kind: 'result' } & TrialResult)
  | ({ kind: 'final' } & FinalResult)
  | { kind: 'finished'; seconds: number };
/** What is told, too, when it is written down. */
export type ToldEntry = Exclude<Entry, { kind: 'sweep' | 'trials' | 'finished' }>;
/** The same without attempts, which every scheduler writes down. */
export type OwnEntry = Exclude<ToldEntry, AttemptEntry>;
export type TimedEntry = Timed<Entry>;

export interface SweepState {
  sweep: SweepLine | undefined;
  rounds: number;
  /** Whether the points of grid and random are planned; not after the sweep was extended. */
  isPlanned: boolean;
  trials: Map<string, TrialLine>;
  cohorts: Map<string, CohortLine>;
  /** Cohorts that others have taken the place of. */
  replaced: Set<string>;
  /** By cohort, or `final`. */
  attempts: Map<string, Attempt[]>;
  results: Map<string, TrialResult>;
  final: FinalResult | undefined;
  finished: boolean;
  /** Cohorts whose `trials` or `split` line, which makes them count, has not come. */
  announced: Map<string, CohortLine>;
}

export function emptyState(): SweepState {
  return {
    ...{ sweep: undefined, rounds: 0, isPlanned: false, final: undefined, finished: false, replaced: new Set() },
    ...{ trials: new Map(), cohorts: new Map(), attempts: new Map(), results: new Map(), announced: new Map() },
  };
}

/** Takes one entry into the state. */
export function reduce(state: SweepState, entry: TimedEntry): void {
  const { time, kind, ...line } = entry;
  if (kind === 'sweep') beginSweep(state, entry);
  else if (kind === 'cohort') state.announced.set(entry.cohort, line as CohortLine);
  else if (kind === 'trials') {
    state.rounds = entry.round + 1;
    state.isPlanned = true;
    for (const trial of entry.trials) state.trials.set(trial.name, trial);
    admit(state, [...state.announced.keys()]);
  } else if (kind === 'split') {
    state.replaced.add(entry.cohort);
    admit(state, entry.into);
  } else if (kind === 'result') state.results.set(entry.trial, line as TrialResult);
  else if (kind === 'final') state.final = line as FinalResult;
  else if (kind === 'finished') state.finished = true;
  else takeAttempt(state.attempts, entry);
}

/** The first line begins a sweep; a later one extends it, so that it is no longer finished. */
function beginSweep(state: SweepState, { kind: _, time: __, ...line }: TimedEntry & { kind: 'sweep' }): void {
  readFormat(line, 'journal.jsonl');
  const final = state.sweep?.val_list === line.val_list ? state.final : undefined;
  Object.assign(state, { sweep: line, isPlanned: false, finished: false, final });
}

function admit(state: SweepState, names: string[]): void {
  for (const name of names) {
    const cohort = state.announced.get(name);
    if (cohort !== undefined) state.cohorts.set(name, cohort);
  }
  state.announced.clear();
}

/** An open journal; one process writes it. */
export class Journal {
  readonly state = emptyState();
  readonly #file: JournalFile<Entry>;

  /** Opens or begins a journal; a line torn by a kill is cut off. */
  constructor(file: string) {
    this.#file = new JournalFile(file, (entry) => reduce(this.state, entry));
  }

  /** Appends entries; when it returns they are on the disk. */
  append(...entries: Entry[]): void {
    this.#file.append(entries);
  }

  close(): void {
    this.#file.close();
  }
}
