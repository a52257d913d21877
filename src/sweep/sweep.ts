/** A sweep from its file to its result: rounds of points, their cohorts, the evaluation of the best. */

import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { Interrupted, showPath, UserError } from '../base/errors.ts';
import { makeFolder, writeWhole } from '../base/files.ts';
import { PROGRAM } from '../base/paths.ts';
import type { Report } from '../base/printer.ts';
import { StopCount } from '../base/process/stop.ts';
import { plural } from '../base/words.ts';
import { FORMAT } from '../config/stored-format.ts';
import type { Executor } from '../executors/executor.ts';
import { openExecutor, openHeartbeat } from '../executors/open.ts';
import { Scheduler } from '../executors/scheduler.ts';
import type { Trial } from '../run/cohort-types.ts';
import { describeSweepNext, guessDevice } from '../run/outcome.ts';
import { finalConfig, makeTrials, planPoints } from './definition/file.ts';
import type { Sweep } from './definition/types.ts';
import { compareSweeps, describeExtension, refuseChanges } from './extend.ts';
import { Journal, type OwnEntry, type SweepLine, type ToldEntry, type TrialResult } from './journal.ts';
import { rankFinished } from './leaderboard.ts';
import { lockSweep, refuseForeign } from './lock.ts';
import {
  type AskForecasts,
  askForecasts,
  checkDevice,
  checkInputs,
  makeRound,
  nextPoints,
  planRound,
  sumPlan,
} from './plan.ts';
import { Pulse, sumSeconds } from './status-file.ts';
import { CohortTask, FinalTask, type TaskContext, writeJson } from './tasks.ts';

export interface SweepRequest {
  sweep: Sweep;
  dir: string;
  /** What stands for `scripts/coldframe`. */
  program?: string[];
  forecast?: AskForecasts;
}

/** Runs a sweep to its end, or goes on with it. Throws Interrupted when asked to stop, after its cohorts have saved. */
export async function runSweep(request: SweepRequest, report: Report): Promise<void> {
  const { sweep } = request;
  const dir = resolve(request.dir);
  refuseForeign(dir);
  const isOwnFolder = makeFolder(dir);
  const unlock = lockSweep(dir);
  const stop = new StopCount();
  let isPlanned = true;
  try {
    const changes = compareSweeps(dir, sweep);
    refuseChanges(dir, changes);
    const extension = describeExtension(dir, changes);
    if (extension !== undefined) report.note(extension);
    const journal = new Journal(join(dir, 'journal.jsonl'));
    const about = { dir, device: sweep.config.launch.device, stop, note: (text: string) => report.note(text) };
    const executor = openExecutor(sweep.executor, about);
    try {
      await new SweepRun({ ...request, dir }, journal, executor, stop, report).run();
    } finally {
      isPlanned = journal.state.rounds > 0;
      await executor.close();
      journal.close();
    }
  } finally {
    report.endProgress();
    stop.release();
    if (!isPlanned) for (const name of BEGINNING) rmSync(join(dir, name), { force: true });
    unlock();
    if (!isPlanned && isOwnFolder) rmSync(dir, { recursive: true });
  }
}

/** What a sweep leaves that was refused before its first trial: nothing, so that it may be corrected and started again. */
const BEGINNING = ['sweep.json', 'journal.jsonl', 'status.json'];

class SweepRun {
  readonly #sweep: Sweep;
  readonly #dir: string;
  readonly #journal: Journal;
  readonly #report: Report;
  readonly #pulse: Pulse;
  readonly #context: TaskContext;
  readonly #scheduler: Scheduler<OwnEntry>;
  readonly #forecast: AskForecasts;
  readonly #stop: StopCount;

  constructor(request: SweepRequest, journal: Journal, executor: Executor, stop: StopCount, report: Report) {
    const { sweep, dir } = request;
    this.#sweep = sweep;
    this.#dir = dir;
    this.#journal = journal;
    this.#report = report;
    this.#forecast = request.forecast ?? askForecasts;
    this.#stop = stop;
    this.#begin();
    this.#pulse = new Pulse(dir, journal.state, executor.slots);
    this.#context = {
      dir,
      program: request.program ?? [PROGRAM],
      cohort: { format: FORMAT, metric: sweep.objective, bracket: sweep.bracket },
      trialsOf: (names) => names.map((name) => this.#makeTrial(name)),
      newNames: (count) => this.#newNames(count),
      launch: sweep.config.launch,
    };
    this.#scheduler = new Scheduler({
      ...{ executor, stop, attempts: journal.state.attempts, tell: () => this.#tell() },
      record: (entries) => this.#record(entries),
      id: journal.state.sweep?.id ?? '',
      maxAttempts: sweep.executor.max_attempts,
      failure: sweep.executor.failure,
      heartbeat: openHeartbeat(sweep.executor, sweep.config.launch),
    });
  }

  /** Begins the journal, or notes there what was added. The journal comes first: a sweep.json that is behind it is
   * compared, and noted, again. */
  #begin(): void {
    const before = this.#journal.state.sweep;
    const line = describeSweep(this.#sweep, before?.id);
    const isOther = JSON.stringify({ ...before, format: FORMAT }) !== JSON.stringify({ ...before, ...line });
    if (isOther) this.#journal.append({ kind: 'sweep', ...line });
    writeJson(join(this.#dir, 'sweep.json'), this.#sweep);
  }

  async run(): Promise<void> {
    const { state } = this.#journal;
    if (state.finished) return this.#tellResult();
    this.#tellStart();
    this.#pulse.write('running');
    try {
      do await this.#scheduler.run(this.#pending());
      while (await this.#planNext());
      await this.#evaluateBest();
      this.#journal.append({ kind: 'finished', seconds: sumSeconds(state) });
      this.#pulse.write('finished');
      this.#tellResult();
    } catch (error) {
      if (error instanceof Interrupted) this.#pulse.write('interrupted');
      else this.#pulse.write('failed', (error as Error).message);
      throw error;
    }
  }

  #pending(): CohortTask[] {
    const { cohorts, replaced, attempts, results } = this.#journal.state;
    const isDone = (cohort: string, trials: string[]): boolean => {
      const outcome = attempts.get(cohort)?.at(-1)?.ended?.outcome;
      return outcome === 'finished' || (outcome === 'failed' && trials.every((name) => results.has(name)));
    };
    const open = [...cohorts.values()].filter(({ cohort, trials }) => !replaced.has(cohort) && !isDone(cohort, trials));
    return open.map((line) => new CohortTask(line, this.#context));
  }

  /** Plans the next round; its `trials` line comes last and makes it count. Returns whether there is one. */
  async #planNext(): Promise<boolean> {
    const { state } = this.#journal;
    const points = await nextPoints(this.#sweep, state);
    if (!state.isPlanned && points.length > 0) await checkDevice(this.#sweep);
    const trials = makeRound(this.#sweep, points, state);
    if (trials.length === 0) return false;
    if (!state.isPlanned) await checkInputs(this.#sweep, trials, this.#report);
    const { lines } = await planRound(this.#sweep, trials, state, this.#forecast);
    if (this.#stop.requested > 0) throw new Interrupted('stopped before the next round was planned');
    this.#journal.append(...lines.map((line) => ({ kind: 'cohort' as const, ...line })), {
      kind: 'trials',
      round: state.rounds,
      trials: trials.map(({ name, point, params, seed }) => ({ name, point, params, seed })),
    });
    const numPoints = points.length;
    this.#report.event({
      kind: 'planned',
      sweep: this.#sweep.name,
      run_dir: this.#dir,
      ...sumPlan(lines),
      num_points: numPoints,
    });
    return true;
  }

  /** Trials are made again from the journal when they are needed: thousands of resolved configurations are not kept. */
  #makeTrial(name: string): Trial {
    const line = this.#journal.state.trials.get(name);
    if (line === undefined) throw new Error(`the journal knows no trial ${name}`);
    const point = { name: line.point, params: line.params };
    const [trial] = makeTrials({ ...this.#sweep, seeds: [line.seed] }, [point], Number(name.slice(1)));
    if (trial === undefined) throw new Error(`trial ${name} cannot be made again`);
    return trial;
  }

  #newNames(count: number): string[] {
    const { size } = this.#journal.state.cohorts;
    return Array.from({ length: count }, (_, index) => `c${String(size + index + 1).padStart(4, '0')}`);
  }

  /** Writes entries of the scheduler down, then tells them. */
  #record(entries: ToldEntry[]): void {
    this.#journal.append(...entries);
    this.#report.events(entries.filter(({ kind }) => kind === 'result'));
    for (const entry of entries) if (entry.kind !== 'result') this.#report.event(entry);
  }

  async #evaluateBest(): Promise<void> {
    const { state } = this.#journal;
    const best = rankFinished(state)[0]?.trials[0];
    if (best === undefined) {
      const whys = [...state.results.values()].flatMap(({ why }) => why ?? []);
      throw new UserError([`${this.#sweep.name}  no trial finished. The first reason: ${whys[0] ?? 'none is known'}`]);
    }
    const trial = this.#makeTrial(best.trial);
    const config = finalConfig(this.#sweep, trial);
    writeWhole(join(this.#dir, 'best.yaml'), `${describeBest(this.#sweep, best)}${stringify(config)}`);
    if (state.final?.trial === best.trial) return;
    if (config.data.val_list === null && !config.data.dummy) {
      this.#report.note('data.val_list is not set: the best trial is not evaluated on it.');
      return;
    }
    await this.#scheduler.run([new FinalTask(trial, best.cohort, this.#context)]);
  }

  /** The first line: planning waits for PyTorch, cohorts for theirs. */
  #tellStart(): void {
    const { executor, config } = this.#sweep;
    const { trials, results } = this.#journal.state;
    const begun = trials.size === 0 ? '' : `, going on with ${results.size} of ${plural(trials.size, 'trial')} done`;
    const where = `${executor.kind}, ${plural(executor.slots, 'slot')}, device ${guessDevice(config.launch.device)}`;
    this.#report.say(`Sweep folder: ${showPath(this.#dir)}${begun}\nRuns on: ${where}. Loading PyTorch ...`);
  }

  #tell(): void {
    const status = this.#pulse.beat();
    if (status === undefined) return;
    const { results, trials } = this.#journal.state;
    this.#report.progress('sweep', results.size, trials.size, this.#pulse.describeLive());
  }

  #tellResult(): void {
    const { state } = this.#journal;
    this.#report.endProgress();
    const [first] = rankFinished(state);
    const about = { sweep: this.#sweep.name, run_dir: this.#dir, metric: this.#sweep.objective };
    const best = first && { point: first.point, mean: first.mean, trial: first.trials[0]?.trial };
    const params = state.trials.get(best?.trial ?? '')?.params;
    const numFailed = [...state.results.values()].filter(({ state: end }) => end === 'failed').length;
    const more = { best, params, final: state.final ?? null, num_failed: numFailed, selection: this.#sweep.selection };
    this.#report.event({ kind: 'finished', ...about, ...more, seconds: sumSeconds(state) });
    this.#report.say(describeSweepNext(this.#dir, first?.trials[0]));
  }
}

function describeSweep(sweep: Sweep, id?: string): SweepLine {
  const { name, method, objective, selection, selection_list, seeds, bracket, base, config, executor } = sweep;
  const word = name.replace(/[^A-Za-z0-9]+/g, '-').slice(0, 30);
  return {
    ...{
      format: FORMAT,
      id: id ?? `${word}-${randomBytes(3).toString('hex')}`,
      name,
      method,
      metric: objective,
      selection,
      selection_list,
    },
    ...{ val_list: config.data.val_list, seeds, bracket, base, steps: config.train.steps, executor: executor.kind },
    num_points: method === 'grid' ? planPoints(sweep).length : (sweep.trials ?? 0),
  };
}

function describeBest(sweep: Sweep, best: TrialResult): string {
  const value = best[sweep.objective];
  const where = sweep.selection === 'validation' ? 'the validation list itself' : showPath(sweep.selection_list ?? '');
  const found = `${sweep.objective} ${value?.toFixed(4)} on ${where}`;
  return `# The best of the sweep ${sweep.name}: trial ${best.trial} (point ${best.point}), ${found}.\n`;
}
