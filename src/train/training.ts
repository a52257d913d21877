/** A run as it stands: what it trains, where it writes, how far it is, and what status.json says of it. */

import { asUserError, classifyFailure, Fenced, Interrupted } from '../base/errors.ts';
import { stampEvent } from '../base/events/event.ts';
import type { Report } from '../base/printer.ts';
import type { Config } from '../config/schema.ts';
import { type CheckedLists, rootOf, type Which } from '../data/checks.ts';
import { BadVideos } from '../data/probe/bad-videos.ts';
import type { KnownLists } from '../data/probe/known.ts';
import { firstSettings } from '../run/cohort-file.ts';
import type { CohortFile } from '../run/cohort-types.ts';
import type { Bests } from '../run/evaluation.ts';
import type { RunFolder, Status } from '../run/folder.ts';
import { SaveClock } from '../run/save-clock.ts';
import type { Meeting } from '../runtime/nodes/meeting.ts';
import type { BadVideo, Result } from '../runtime/replies.ts';
import { decideRung, findNextRung, type RankedPoint } from './bracket.ts';
import { Pace } from './progress.ts';
import type { StopRequest } from './stop-request.ts';
import { Standing } from './trials.ts';

/** A call is about so long: short enough to stop and prune, long enough that the bridge costs nothing. */
export const CALL_SECONDS = 1;
const MAX_STEPS_PER_CALL = 200;
const STATUS_SECONDS = 1; // how old a status may be that others show, but for a call that takes longer

export type Results = Record<string, Result>;

export class Training {
  readonly cohort: CohortFile;
  /** Of the first trial; what the loop reads of it is the same in all. */
  readonly config: Config;
  readonly folder: RunFolder;
  readonly report: Report;
  readonly stop: StopRequest;
  readonly standing: Standing;
  readonly clock: SaveClock;
  readonly bad: Record<Which, BadVideos>;
  /** Bad clips that a probe of these lists found, and that are still the same. */
  known: KnownLists = {};
  readonly pace = new Pace();
  /** Of several machines. */
  readonly meeting: Meeting | undefined;
  lists: CheckedLists = {};
  /** null: none is kept (`run.keep_best`). */
  bests: Bests | null = null;
  step = 0;
  /** null: this process has saved nothing yet. */
  savedStep: number | null = null;
  /** Steps without a clip that could be read. */
  leftOut: Set<number> | undefined;
  /** Of the last step; of several trials the lowest. */
  loss: number | null = null;
  #lastStatus = 0;

  constructor(cohort: CohortFile, folder: RunFolder, report: Report, stop: StopRequest, meeting?: Meeting) {
    this.meeting = meeting;
    this.cohort = cohort;
    this.config = firstSettings(cohort);
    this.folder = folder;
    this.report = report;
    this.stop = stop;
    this.clock = new SaveClock(this.config.run.save_minutes);
    this.bad = { train: this.#watchBad('train'), val: this.#watchBad('val') };
    this.standing = new Standing(cohort.trials.map(({ name }) => name));
  }

  /** The limit is one of training clips; a video that cannot be evaluated on counts as an error there. */
  #watchBad(which: Which): BadVideos {
    const { data } = this.config;
    const file = data[`${which}_list`];
    return new BadVideos({
      report: this.report,
      limit: which === 'train' ? data : null,
      done: 'read',
      lists: file === null ? [] : [{ file, root: rootOf(data, which) }],
      listedIn: this.folder.path('bad-videos.tsv'),
      keep: ({ path, reason }) => this.folder.addBadVideo(which, path, reason),
    });
  }

  /** Takes bad videos of a list; names those that the run did not know. Throws UserError where they are too many. */
  countBad(which: Which, videos: BadVideo[]): void {
    this.bad[which].count(videos, this.lists[which]?.numLines ?? 0, this.step);
  }

  /** Names the clips that are known to be bad, all at once. */
  countKnown(): void {
    for (const which of ['train', 'val'] as const) {
      const bad = this.known[which]?.bad ?? [];
      this.countBad(
        which,
        bad.map(({ path, reason }) => ({ path, reason })),
      );
    }
  }

  /** Throws UserError where too many are known to be bad before the run has begun. */
  refuseKnown(): void {
    const known = new Map(this.folder.badVideos().train);
    for (const { path, reason } of this.known.train?.bad ?? []) known.set(path, reason);
    this.bad.train.refuse(known, this.lists.train?.numLines ?? 0);
  }

  /** Steps until the call is about a second long, and never past the next rung, evaluation or checkpoint. */
  nextCount(): number {
    const { run, eval: evaluation, train: training } = this.config;
    const next = (every: number | null): number =>
      every === null ? training.steps : (Math.floor(this.step / every) + 1) * every;
    const rung = findNextRung(this.cohort.bracket, this.step) ?? training.steps;
    const boundary = Math.min(training.steps, rung, next(run.save_every), next(evaluation.every)) - this.step;
    return Math.max(1, Math.min(boundary, this.pace.countFitting(CALL_SECONDS), MAX_STEPS_PER_CALL));
  }

  isRung(): boolean {
    return this.cohort.bracket?.rungs.includes(this.step) ?? false;
  }

  isDue(what: 'save' | 'evaluate'): boolean {
    const { run, eval: evaluation, train: training } = this.config;
    if (what === 'evaluate' && this.lists.val === undefined) return false;
    if (what === 'save' && this.clock.isDue) return true;
    const every = what === 'save' ? run.save_every : evaluation.every;
    return this.isRung() || this.step === training.steps || (every !== null && this.step % every === 0);
  }

  /** A run that was killed between saving and evaluating has none for its step. */
  storedResults(step: number): Results | undefined {
    const stored = this.folder.readJson(`evaluations/step-${step}/result.json`);
    return (stored as { results: Results } | undefined)?.results;
  }

  /** Ranks the points of an evaluation, also one that has losers that are gone already. */
  decide(results: Results): RankedPoint[] {
    return decideRung(this.cohort, this.cohort.bracket?.keep ?? 1, results);
  }

  /** Without an attempt's number a folder that was not taken over may be another run's: nothing is written there. */
  recordFailure(caught: unknown): void {
    const error = asUserError(caught);
    if (error instanceof Interrupted || error instanceof Fenced || !(error instanceof Error)) return;
    const { journal } = this.report;
    if (this.folder.isFenced() || (journal === undefined && this.folder.attempt === undefined)) return;
    const failure = { class: classifyFailure(error), message: error.message };
    try {
      this.writeStatus('failed', failure);
      // Only into the journal: cli.ts prints the last error.
      if (journal !== undefined)
        this.folder.append(stampEvent({ kind: 'failed', step: this.step, where: error.name, ...failure }));
    } catch {
      // A disk that is full takes no word about it either. The error itself is what the user reads.
    }
  }

  writeStatus(state: Status['state'], more: object = {}): void {
    const { steps } = this.config.train;
    const rung = findNextRung(this.cohort.bracket, this.step);
    const eta_seconds = state === 'running' ? this.pace.countEta(this.step, steps) : null;
    const attempt = this.folder.attempt === undefined ? {} : { attempt: this.folder.attempt };
    const trials = this.standing.describe(this.step, state === 'finished' ? 'finished' : 'running');
    const loss = state === 'running' ? this.loss : null;
    this.#lastStatus = Date.now();
    this.folder.writeStatus({ state, step: this.step, steps, rung, loss, eta_seconds, trials, ...attempt, ...more });
  }

  /** Writes the status of a run that goes on, unless it is fresh. */
  refreshStatus(): void {
    if (Date.now() - this.#lastStatus >= STATUS_SECONDS * 1000) this.writeStatus('running');
  }
}
