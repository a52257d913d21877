/** The training loop: advance, evaluate, save, decide. There is one, and it loops over the trials of a cohort. */

import { asUserError, classifyFailure, Fenced, Interrupted, InUse, RuntimeFailure, UserError } from '../base/errors.ts';
import { stampEvent } from '../base/events.ts';
import type { Report } from '../base/printer.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import { type CheckedLists, describeList, describeRun, filesOf } from '../data/checks.ts';
import { countAllowed } from '../data/list.ts';
import { refuseOtherBackbone } from '../run/changes.ts';
import { firstSettings, isPlain, recordCohort } from '../run/cohort-file.ts';
import type { CohortFile } from '../run/cohort-types.ts';
import type { RunFolder, Status } from '../run/folder.ts';
import { refuseSmallDisk } from '../run/place.ts';
import { SaveClock } from '../run/save-clock.ts';
import { type Runtime, startRuntime } from '../runtime/runtime.ts';
import { type Advanced, type BadVideo, type Opened, type Result, Session, type Step } from '../runtime/session.ts';
import { decideRung, findNextRung, type RankedPoint } from './bracket.ts';
import { Pace } from './progress.ts';
import type { StopRequest } from './stop-request.ts';
import { type DropReason, Standing } from './trials.ts';

const CALL_SECONDS = 1; // a call is about so long: short enough to stop and prune, long enough that the bridge costs nothing
const MAX_STEPS_PER_CALL = 200;
const STATUS_SECONDS = 1; // how old a status may be that others show, but for a call that takes longer

type Results = Record<string, Result>;

export class TrainingRun {
  readonly cohort: CohortFile;
  /** Of the first trial; what the loop reads of it is the same in all. */
  readonly config: Config;
  readonly folder: RunFolder;
  readonly report: Report;
  readonly stop: StopRequest;
  readonly standing: Standing;
  lists: CheckedLists = {};
  step = 0;
  /** null: this process has saved nothing yet. */
  #savedStep: number | null = null;
  readonly #clock: SaveClock;
  /** Steps without a clip that could be read. */
  #leftOut: Set<number> | undefined;
  /** Of the last step; of several trials the lowest. */
  #loss: number | null = null;
  #lastStatus = 0;
  readonly #pace = new Pace();

  constructor(cohort: CohortFile, folder: RunFolder, report: Report, stop: StopRequest) {
    this.cohort = cohort;
    this.config = firstSettings(cohort);
    this.folder = folder;
    this.report = report;
    this.stop = stop;
    this.#clock = new SaveClock(this.config.run.save_minutes);
    this.standing = new Standing(cohort.trials.map(({ name }) => name));
  }

  startRuntime(): Promise<Runtime> {
    return startRuntime({
      logFile: this.folder.path('runtime.log'),
      stallSeconds: this.config.launch.stall_seconds,
    });
  }

  /** Runs to the end; a runtime that dies is started again, `launch.max_restarts` times, from the last checkpoint. */
  async attempts(first: Promise<Runtime>, resume: string): Promise<void> {
    let starting = first;
    for (let attempt = 0; ; attempt++) {
      try {
        await this.attemptOn(await starting, this.#savedStep === null ? resume : 'auto');
        return;
      } catch (error) {
        this.folder.refuseFenced(); // whatever it was: it came of losing the folder
        if (this.stop.requested && error instanceof RuntimeFailure) {
          if (this.report.journal !== undefined) this.writeStatus('interrupted');
          throw new Interrupted('stopped at once; the last checkpoint stands');
        }
        const again = error instanceof RuntimeFailure && attempt < this.config.launch.max_restarts;
        if (!again) throw error;
        this.report.event({ kind: 'restarted', step: this.step, why: error.message });
      }
      starting = this.startRuntime(); // one that dies at its own start is a restart, too
    }
  }

  /** What goes wrong in closing is told, and changes nothing in how the attempt ended: a finished run is finished. */
  async attemptOn(runtime: Runtime, resume: string): Promise<void> {
    this.stop.runtime = runtime;
    try {
      await this.attempt(new Session(runtime), resume);
    } finally {
      await this.close(runtime).catch(({ message }: Error) => {
        this.report.note(`${message}\nWhat was saved stands; the last of the curves may be missing.`);
      });
    }
  }

  async close(runtime: Runtime): Promise<void> {
    if (!this.folder.isFenced()) return runtime.close();
    runtime.kill(); // flushes nothing any more, and frees the folder's lock
    await runtime.close().catch(() => {});
  }

  async attempt(session: Session, resume: string): Promise<void> {
    const opened = await this.open(session, resume);
    if (opened.step < this.config.train.steps) {
      const { trained } = opened.parameters;
      refuseSmallDisk(this.folder.dir, trained, this.config.train.ema_decay !== null);
    }
    this.begin(opened);
    await this.settle(session);
    while (this.step < this.config.train.steps) {
      if (this.stop.requested) return this.interrupt(session);
      this.digest(await session.advance(this.nextCount()));
      if (this.isRung()) await this.passRung(session, await this.evaluate(session));
      else {
        if (this.isDue('save')) await this.save(session);
        if (this.isDue('evaluate')) await this.evaluate(session);
      }
    }
    this.writeStatus('finished');
    this.report.event({ kind: 'finished', step: this.step, trials: this.standing.results() });
  }

  async open(session: Session, resume: string): Promise<Opened> {
    const request = {
      mode: 'train' as const,
      trials: this.cohort.trials.map(({ name, settings }) => ({ name, settings })),
      lists: filesOf(this.lists),
      classes: this.lists.classes ?? null,
      run_dir: this.folder.dir,
      resume,
    };
    return this.#take(session.open(request));
  }

  /** Keeps other processes out of the folder; before this nothing is written there. */
  async lock(session: Session): Promise<void> {
    const { note } = await this.#take(session.lock(this.folder.dir));
    if (note !== null) this.report.note(note);
  }

  async #take<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      // The attempt before this one should have left by now: a scheduler tries again, no person is needed.
      if (error instanceof InUse && this.folder.attempt !== undefined) throw new RuntimeFailure(error.message);
      throw error;
    }
  }

  /** Writes down what the run is, and begins its journal. */
  begin(opened: Opened): void {
    this.step = opened.step;
    this.#clock.restart();
    for (const note of opened.notes) this.report.note(note);
    this.folder.refuseFenced();
    refuseOtherBackbone(this.folder.dir, this.cohort, opened.backbone_sha256);
    this.folder.dropTornLines();
    this.report.journal = (event) => this.folder.append(event);
    this.folder.writeJson('config.json', recordCohort(this.cohort));
    if (!isPlain(this.cohort)) this.folder.writeJson('cohort.json', this.cohort);
    this.folder.writeJson('environment.json', describeRun(opened, this.lists));
    this.standing.resume(this.step, opened.trials, this.folder.readEvents('dropped', this.step));
    const evaluated = this.folder.listEvaluations().findLast((step) => step <= this.step);
    if (evaluated !== undefined) this.standing.evaluated(this.storedResults(evaluated) ?? {});
    const { train: training, model } = this.config;
    this.report.event({
      kind: 'started',
      step: this.step,
      run_dir: this.folder.dir,
      ...{ steps: training.steps, batch_size: training.batch_size, backbone: model.backbone.preset },
      ...{ num_train: this.lists.train?.numLines ?? null, num_val: this.lists.val?.numLines ?? null },
      resumed_from: opened.resumed_from,
      device: opened.device,
      precision: opened.precision,
      parameters: opened.parameters,
      trials: opened.trials,
    });
    this.writeStatus('running');
  }

  /** Does what a kill or a stop left undone at the step of the checkpoint. */
  async settle(session: Session): Promise<void> {
    if (this.step === 0 || !this.isDue('evaluate')) return;
    const stored = this.storedResults(this.step);
    const { alive } = this.standing;
    const isComplete = stored !== undefined && alive.every((name) => name in stored);
    const results = isComplete ? stored : await this.evaluate(session);
    // A checkpoint saved by a stop in the rung's evaluation still holds the losers; one saved by the rung does not.
    if (!this.isRung()) return;
    const losers = this.decide(results).filter(({ stays }) => !stays);
    if (losers.some(({ trials }) => trials.some((name) => alive.includes(name)))) await this.passRung(session, results);
  }

  /** Steps until the call is about a second long, and never past the next rung, evaluation or checkpoint. */
  nextCount(): number {
    const { run, eval: evaluation, train: training } = this.config;
    const next = (every: number | null): number =>
      every === null ? training.steps : (Math.floor(this.step / every) + 1) * every;
    const rung = findNextRung(this.cohort.bracket, this.step) ?? training.steps;
    const boundary = Math.min(training.steps, rung, next(run.save_every), next(evaluation.every)) - this.step;
    return Math.max(1, Math.min(boundary, this.#pace.countFitting(CALL_SECONDS), MAX_STEPS_PER_CALL));
  }

  isRung(): boolean {
    return this.cohort.bracket?.rungs.includes(this.step) ?? false;
  }

  isDue(what: 'save' | 'evaluate'): boolean {
    const { run, eval: evaluation, train: training } = this.config;
    if (what === 'evaluate' && this.lists.val === undefined) return false;
    if (what === 'save' && this.#clock.isDue) return true;
    const every = what === 'save' ? run.save_every : evaluation.every;
    return this.isRung() || this.step === training.steps || (every !== null && this.step % every === 0);
  }

  /** A run that was killed between saving and evaluating has none for its step. */
  storedResults(step: number): Results | undefined {
    const stored = this.folder.readJson(`evaluations/step-${step}/result.json`);
    return (stored as { results: Results } | undefined)?.results;
  }

  digest(advanced: Advanced): void {
    for (const video of advanced.bad) this.countBadVideo(video);
    for (const step of advanced.steps) {
      this.digestStep(step);
      const gone = advanced.dropped.filter((one) => one.step === step.step);
      for (const { trial, why } of gone) this.drop([{ trial, why, reason: 'diverged' }]);
    }
    if (Date.now() - this.#lastStatus >= STATUS_SECONDS * 1000) this.writeStatus('running');
    if (this.standing.alive.length > 0) return;
    const name = (trial: string): string => (isPlain(this.cohort) ? '' : `trial ${trial}: `);
    throw new UserError(advanced.dropped.map(({ trial, why }) => `${name(trial)}training stopped at ${why}`));
  }

  drop(trials: { trial: string; why: string; reason: DropReason; [field: string]: unknown }[]): void {
    for (const { trial, reason } of trials) this.standing.drop(trial, reason, this.step);
    this.report.events(
      trials.map((one) => ({ kind: 'dropped', step: this.step, ...one, ...this.standing.accuracyOf(one.trial) })),
    );
  }

  digestStep(step: Step): void {
    this.step = step.step;
    const { train, run } = this.config;
    if (step.clips === 0) {
      this.#leftOut ??= new Set(this.folder.readEvents('left_out', this.step).map((event) => event.step ?? 0));
      this.#leftOut.add(this.step); // a run that goes on passes some again
      this.report.event({ kind: 'left_out', step: this.step, num_left_out: this.#leftOut.size });
    }
    const pace = this.#pace.add(step, train.steps);
    if (this.step % run.print_every === 0 || this.step === train.steps) {
      const speed = this.#pace.takeMeans();
      const common = { kind: 'step', step: this.step, steps: train.steps };
      this.report.events(
        Object.entries(step.trials).map(([trial, result]) => ({ ...common, trial, ...result, ...speed })),
      );
      this.writeStatus('running');
    }
    this.#loss = lowestLoss(step);
    this.report.progress('train', this.step, train.steps, { ...pace, loss: this.#loss });
  }

  countBadVideo(video: BadVideo): void {
    const { isNew, numBad } = this.folder.addBadVideo(video.path, video.reason);
    const numVideos = (this.lists.train?.numLines ?? 0) + (this.lists.val?.numLines ?? 0);
    if (isNew)
      this.report.event({ kind: 'bad_video', step: this.step, ...video, num_bad: numBad, num_videos: numVideos });
    const limit = this.config.data.max_bad_fraction;
    if (numBad > countAllowed(limit, numVideos)) {
      throw new UserError(
        `${video.path}  ${video.reason}. ${numBad} of ${plural(numVideos, 'video')} cannot be read, and data.max_bad_fraction allows ${limit}. ` +
          `They are listed in ${this.folder.path('bad-videos.tsv')}: mend or remove them, or raise the limit.`,
      );
    }
  }

  async save(session: Session): Promise<void> {
    this.folder.refuseFenced();
    this.report.event({ kind: 'saved', ...(await session.save()) });
    this.#savedStep = this.step;
    this.#clock.restart();
  }

  async evaluate(session: Session): Promise<Results> {
    for (;;) {
      this.folder.refuseFenced();
      const progress = await session.evaluate(CALL_SECONDS, this.folder.path('evaluations', `step-${this.step}`));
      for (const video of progress.bad) this.countBadVideo(video);
      this.drop(progress.dropped.map(({ trial, why }) => ({ trial, why, reason: 'diverged' })));
      this.report.progress('evaluate', progress.num_seen, progress.num_total);
      this.writeStatus('running', { evaluating: { num_seen: progress.num_seen, num_total: progress.num_total } });
      if (progress.results !== null) return this.recordEvaluation(progress.results);
      if (this.#clock.isDue && this.#savedStep !== this.step) await this.save(session);
      // Taken up again by the next start: evaluations/ has no result for this step.
      if (this.stop.requested) return this.interrupt(session);
    }
  }

  recordEvaluation(results: Results): Results {
    this.report.endProgress();
    this.standing.evaluated(results);
    const { val, classes } = this.lists;
    const list = describeList(val);
    this.folder.writeJson(`evaluations/step-${this.step}/result.json`, { step: this.step, list, classes, results });
    this.report.events(
      Object.entries(results).map(([trial, { per_class, ...result }]) => {
        return { kind: 'evaluated', step: this.step, trial, ...result, list };
      }),
    );
    return results;
  }

  /** The rung is decided, and only then saved: its checkpoint holds the survivors alone. */
  async passRung(session: Session, results: Results): Promise<void> {
    const points = this.decide(results);
    const numLeft = points.filter(({ stays }) => stays).length;
    const common = { metric: this.cohort.metric, num_points: points.length };
    this.report.event({ kind: 'rung', step: this.step, ...common, num_left: numLeft, points });
    const losers = points
      .filter(({ stays }) => !stays)
      .flatMap(({ point, rank, metric, trials }) => {
        const why = `rank ${rank} of ${points.length} by ${this.cohort.metric}; the rung keeps ${numLeft}`;
        return trials.map((trial) => ({ trial, why, reason: 'pruned' as const, point, rank, ...common, metric }));
      });
    if (losers.length > 0) await session.drop(losers.map(({ trial }) => trial));
    this.drop(losers);
    await this.save(session);
    this.writeStatus('running');
  }

  /** Ranks the points of an evaluation, also one that has losers that are gone already. */
  decide(results: Results): RankedPoint[] {
    return decideRung(this.cohort, this.cohort.bracket?.keep ?? 1, results);
  }

  async interrupt(session: Session): Promise<never> {
    if (this.step > 0) await this.save(session);
    this.writeStatus('interrupted');
    this.report.event({ kind: 'interrupted', step: this.step });
    throw new Interrupted(`stopped at step ${this.step}`);
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
    const eta_seconds = state === 'running' ? this.#pace.countEta(this.step, steps) : null;
    const attempt = this.folder.attempt === undefined ? {} : { attempt: this.folder.attempt };
    const trials = this.standing.describe(this.step, state === 'finished' ? 'finished' : 'running');
    const loss = state === 'running' ? this.#loss : null;
    this.#lastStatus = Date.now();
    this.folder.writeStatus({ state, step: this.step, steps, rung, loss, eta_seconds, trials, ...attempt, ...more });
  }
}

function lowestLoss({ trials }: Step): number | null {
  const losses = Object.values(trials).flatMap(({ loss }) => loss ?? []);
  return losses.length === 0 ? null : Math.min(...losses);
}
