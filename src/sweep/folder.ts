/** A sweep folder as `sweep status` and the report show it: what its journal says, and what cohorts at work say. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { pickAccuracy } from '../base/intervals.ts';
import type { Attempt, Outcome } from '../executors/attempts.ts';
import { parseLines } from '../executors/journal-file.ts';
import { isWriterAlive, judgeRun, readSavedStep } from '../run/liveness.ts';
import { readStatus, type StoredStatus } from '../run/status.ts';
import {
  type Entry,
  emptyState,
  type FinalResult,
  reduce,
  type SweepLine,
  type SweepState,
  type TimedEntry,
} from './journal.ts';
import { type PointView, rankPoints, type TrialState, type TrialView } from './leaderboard.ts';

export interface CohortView {
  name: string;
  trials: string[];
  /** `stopped`: its process is gone with its runner, and the same `sweep` goes on from the checkpoint. */
  state: 'waiting' | 'running' | 'stopped' | 'finished' | 'failed' | 'cancelled' | 'split';
  attempt: number;
  step: number | null;
  /** Of its newest checkpoint. */
  savedStep: number | null;
  steps: number | null;
  nextRung: number | null;
  etaSeconds: number | null;
  /** Of all its attempts, the ones that failed too. */
  seconds: number;
  /** Operations of the cohort, and of its trials each alone. */
  cost: { together: number; alone: number } | null;
}

export interface Incident {
  time: string;
  cohort: string;
  what: string;
  /** In one line. */
  why: string;
  /** The last lines of its log, where there are any. */
  log: string | null;
  /** Someone asked the sweep to stop: no failure. */
  isStop: boolean;
}

export interface SweepView {
  dir: string;
  sweep: SweepLine;
  /** `stopped`: its runner is gone, and the work is not done. */
  state: 'running' | 'finished' | 'failed' | 'interrupted' | 'stopped';
  message: string | null;
  began: string;
  updated: string;
  etaSeconds: number | null;
  /** The keys that the points set, in the order of the sweep file. */
  keys: string[];
  /** Best first. */
  points: PointView[];
  trials: TrialView[];
  cohorts: CohortView[];
  incidents: Incident[];
  final: FinalResult | null;
  /** Of the list that the choice is made on; null before the first evaluation, and where they tell no interval (mAP). */
  numVideos: number | null;
  best: PointView | null;
}

/** Returns the view of a sweep folder. Throws UserError where there is none. */
export function readSweepFolder(dir: string): SweepView {
  const folder = resolve(dir);
  const entries = readEntries(dir);
  const state = emptyState();
  for (const entry of entries) reduce(state, entry);
  const { sweep } = state;
  if (sweep === undefined)
    throw new UserError(`${showPath(dir)}  its sweep was stopped before it began. Run the same \`sweep\` again.`);
  const statuses = new Map([...state.cohorts.keys()].map((name) => [name, readCohortStatus(folder, state, name)]));
  const judged = judgeState(state, entries, readStatus(join(folder, 'status.json')));
  const cohorts = [...state.cohorts.keys()].map((name) =>
    viewCohort(folder, state, name, { live: statuses.get(name), isWatched: judged.state === 'running' }),
  );
  const trials = viewTrials(state, cohorts, statuses);
  const points = rankPoints(trials, sweep.metric);
  const final = state.final ?? null;
  const first = points.find((point) => point.rank === 1);
  return {
    ...{ dir: folder, sweep, final, cohorts, trials, points, incidents: listIncidents(entries) },
    ...judged,
    began: entries[0]?.time ?? '',
    numVideos: sweep.metric === 'map' ? null : readNumVideos(folder, [...state.attempts.keys()]),
    keys: [...new Set(trials.flatMap(({ params }) => Object.keys(params)))],
    best: (state.finished ? points.find(({ point }) => point === final?.point) : undefined) ?? first ?? null,
  };
}

/** Returns whether a folder is a sweep's. */
export function isSweepFolder(dir: string): boolean {
  return existsSync(join(dir, 'journal.jsonl'));
}

function readEntries(dir: string): TimedEntry[] {
  const file = join(dir, 'journal.jsonl');
  if (!existsSync(dir))
    throw new UserError(`${showPath(dir)}  does not exist. Give a sweep folder, such as runs/NAME.`);
  if (!existsSync(file)) {
    const what = existsSync(join(dir, 'config.json')) ? 'is the folder of one training run' : 'holds no journal.jsonl';
    throw new UserError(`${showPath(dir)}  ${what}. Give the folder of a sweep, such as runs/NAME.`);
  }
  const text = readFileSync(file, 'utf8');
  return parseLines<Entry>(text.slice(0, text.lastIndexOf('\n') + 1), showPath(file)); // the runner may be writing the last one
}

/** Of cohorts that began; of thousands that wait no file is looked for. */
function readCohortStatus(folder: string, state: SweepState, name: string): StoredStatus | undefined {
  if (!state.attempts.has(name)) return undefined;
  return readStatus(join(folder, 'cohorts', name, 'status.json'));
}

function judgeState(
  state: SweepState,
  entries: TimedEntry[],
  status: StoredStatus | undefined,
): Pick<SweepView, 'state' | 'message' | 'updated' | 'etaSeconds'> {
  const updated = status?.updated ?? entries.at(-1)?.time ?? '';
  const told = { message: status?.message ?? null, updated, etaSeconds: null };
  if (state.finished) return { ...told, state: 'finished' };
  if (status?.state === 'failed' || status?.state === 'interrupted') return { ...told, state: status.state };
  if (status !== undefined && isWriterAlive(status))
    return { ...told, state: 'running', etaSeconds: status.eta_seconds };
  const runner = status?.pid == null ? 'The runner' : `The runner (process ${status.pid} on ${status.host})`;
  const message = `${runner} is gone, last seen ${updated}. The same \`sweep\` command goes on where it stopped.`;
  return { ...told, state: 'stopped', message };
}

function viewCohort(
  folder: string,
  state: SweepState,
  name: string,
  { live, isWatched }: { live: StoredStatus | undefined; isWatched: boolean },
): CohortView {
  const line = state.cohorts.get(name);
  const attempts = state.attempts.get(name) ?? [];
  const last = attempts.at(-1);
  const isOpen = last !== undefined && last.ended === undefined;
  const isRunning = isOpen && (isWatched || isLeftRunning(last, live));
  const ended = last?.ended?.outcome;
  return {
    ...{ name, trials: line?.trials ?? [], cost: line?.cost ?? null, attempt: last?.attempt ?? 0 },
    ...{ step: live?.step ?? null, steps: live?.steps ?? null },
    savedStep: last === undefined ? null : readSavedStep(join(folder, 'cohorts', name)),
    state: state.replaced.has(name) ? 'split' : isOpen ? (isRunning ? 'running' : 'stopped') : nameEnd(ended),
    nextRung: isRunning ? (live?.rung ?? null) : null,
    etaSeconds: isRunning ? (live?.eta_seconds ?? null) : null,
    seconds: attempts.reduce((sum, attempt) => sum + timeAttempt(attempt, live), 0),
  };
}

const nameEnd = (ended: Outcome | undefined): CohortView['state'] =>
  ended === undefined || ended === 'retry' ? 'waiting' : ended;

/** A cohort may outlive its runner. One that has not written its status yet is known by its handle, if it is a process. */
function isLeftRunning({ attempt, handle }: Attempt, live: StoredStatus | undefined): boolean {
  if (live?.attempt === attempt) return judgeRun(live) === 'running';
  const [pid, birth] = handle?.split(' ') ?? [];
  return isWriterAlive({ pid: Number(pid), host: hostname(), birth: birth ?? '' });
}

/** Not until now: a cohort that died with its runner cost nothing since. */
function timeAttempt({ began, ended }: Attempt, live: StoredStatus | undefined): number {
  if (ended !== undefined) return ended.seconds;
  return Math.max(0, (Date.parse(live?.updated ?? began) - Date.parse(began)) / 1000);
}

function viewTrials(
  state: SweepState,
  cohorts: CohortView[],
  statuses: Map<string, StoredStatus | undefined>,
): TrialView[] {
  const cohortOf = new Map<string, CohortView>();
  for (const cohort of cohorts)
    if (cohort.state !== 'split') for (const name of cohort.trials) cohortOf.set(name, cohort);
  return [...state.trials.values()].map(({ name, point, params, seed }): TrialView => {
    const result = state.results.get(name);
    if (result !== undefined) {
      const { cohort, state: ended, step, rungs, why } = result;
      return { name, point, params, seed, cohort, state: ended, step, ...pickAccuracy(result), rungs, why };
    }
    const cohort = cohortOf.get(name);
    const live = statuses.get(cohort?.name ?? '')?.trials[name];
    const isBegun = cohort?.state === 'running' || cohort?.state === 'stopped';
    const now = isBegun ? nameState(live?.state, cohort.state === 'running') : 'waiting';
    return {
      ...{ name, point, params, seed, cohort: cohort?.name ?? null, state: now, rungs: [], why: null },
      ...{ step: live?.step ?? null, ...pickAccuracy(live ?? { top1: null, top5: null }) },
    };
  });
}

function nameState(state: string | null | undefined, isRunning: boolean): TrialState {
  if (state === 'finished' || state === 'pruned' || state === 'diverged') return state;
  return isRunning ? 'running' : 'stopped';
}

function listIncidents(entries: TimedEntry[]): Incident[] {
  return entries.flatMap((entry): Incident[] => {
    const { time } = entry;
    const one = (cohort: string, what: string, text: string, isStop = false): Incident => {
      const [why = '', ...log] = text.split('\n');
      return { time, cohort, what, why, log: log.length > 0 ? log.join('\n') : null, isStop };
    };
    if (entry.kind === 'split') return [one(entry.cohort, `split into ${entry.into.join(', ')}`, entry.why)];
    if (entry.kind === 'cohort' && entry.micro_batches !== undefined)
      return [one(entry.cohort, `micro_batches ${entry.micro_batches}`, 'to fit into memory')];
    if (entry.kind !== 'ended' || entry.outcome === 'finished') return [];
    const isStop = entry.outcome === 'cancelled';
    const ended = entry.outcome === 'retry' ? `${entry.class ?? 'ended early'}, tried again` : entry.outcome;
    const ending = isStop ? 'stopped with the sweep' : ended;
    return [one(entry.cohort, `attempt ${entry.attempt}: ${ending}`, entry.why ?? '', isStop)];
  });
}

/** Every cohort is evaluated on the same list: the first result that there is says how many videos it has. */
function readNumVideos(folder: string, cohorts: string[]): number | null {
  for (const cohort of cohorts) {
    const parent = join(folder, 'cohorts', cohort, 'evaluations');
    for (const name of existsSync(parent) ? readdirSync(parent) : []) {
      const file = join(parent, name, 'result.json');
      if (!/^step-\d+$/.test(name) || !existsSync(file)) continue;
      const { results } = JSON.parse(readFileSync(file, 'utf8')) as { results: Record<string, { num_videos: number }> };
      const [first] = Object.values(results);
      if (first !== undefined) return first.num_videos;
    }
  }
  return null;
}

/** Returns the seconds that cohorts took, and what running each trial alone would have taken, by the forecast. */
export function sumCost(cohorts: CohortView[]): { seconds: number; aloneSeconds: number | null } {
  const seconds = cohorts.reduce((sum, cohort) => sum + cohort.seconds, 0);
  const known = cohorts.filter(({ seconds: own, cost }) => own === 0 || cost !== null);
  const aloneSeconds = known.reduce(
    (sum, { seconds: own, cost }) => sum + (cost === null ? 0 : (own * cost.alone) / cost.together),
    0,
  );
  return { seconds, aloneSeconds: known.length === cohorts.length && seconds > 0 ? aloneSeconds : null };
}
