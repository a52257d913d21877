/** The training loop: advance, evaluate, save, decide. It runs a cohort; `train` is a cohort of one trial, `main`. */

import { existsSync, rmSync } from 'node:fs';
import type { Config } from './config-schema.ts';
import { countAllowed } from './data-list.ts';
import { Interrupted, RuntimeFailure, UserError } from './errors.ts';
import { stampEvent } from './events.ts';
import { type CheckedLists, checkLists, describeList, describeRun } from './inputs.ts';
import type { Report } from './report.ts';
import { findCheckpoint, RunFolder, refuseChangedConfig, type Status } from './runs.ts';
import { type Runtime, startRuntime } from './runtime.ts';
import { type Advanced, type BadVideo, type Opened, type Result, Session, type Step } from './session.ts';

const CALL_SECONDS = 1; // a call is about so long: short enough to stop and prune, long enough that the bridge costs nothing
const MAX_STEPS_PER_CALL = 200;

export interface TrainRequest {
  config: Config;
  runDir: string;
  /** auto: go on where the run folder stopped; never: start anew; else the path of a checkpoint. */
  resume: string;
}

/** Trains until done. Throws Interrupted when asked to stop, after saving. */
export async function train(request: TrainRequest, report: Report): Promise<void> {
  const { config } = request;
  const resume = ['auto', 'never'].includes(request.resume) ? request.resume : findCheckpoint(request.resume);
  const folder = new RunFolder(request.runDir);
  if (resume === 'auto') refuseChangedConfig(folder, config);
  if (resume === 'never') {
    const aside = folder.setAside();
    if (aside !== undefined) report.note(`The earlier run is kept in ${aside}`);
  }
  const isNew = !existsSync(folder.dir);
  folder.create();
  const stop = new StopRequest();
  const run = new TrainingRun(config, folder, report, stop);
  try {
    // Python takes seconds to import torch: the lists are read meanwhile.
    const starting = run.startRuntime();
    starting.then((runtime) => new Session(runtime).warm()).catch(() => {});
    try {
      run.lists = await checkLists(config, ['train', 'val'], folder.path('lists'), report);
      if (resume === 'auto') refuseChangedList(folder, run.lists);
      await starting;
    } catch (error) {
      await starting.then((runtime) => runtime.close()).catch(() => {});
      throw error;
    }
    await run.attempts(starting, resume);
  } catch (error) {
    // What never began leaves nothing; only a Python that fails leaves its log.
    const hasBegun = existsSync(folder.path('config.json'));
    if (isNew && !hasBegun && !(error instanceof RuntimeFailure)) rmSync(folder.dir, { recursive: true });
    throw error;
  } finally {
    report.endProgress();
    stop.release();
  }
}

/** The order of the clips follows from the list: another list would silently give other numbers. */
function refuseChangedList(folder: RunFolder, lists: CheckedLists): void {
  if (!folder.hasCheckpoint()) return;
  const environment = folder.readJson('environment.json') as { lists?: { train?: { sha256: string } } } | undefined;
  const before = environment?.lists?.train?.sha256;
  const now = lists.train?.sha256;
  if (before === undefined || now === undefined || before === now) return;
  throw new UserError(
    `${lists.train?.file}  has changed since the run in ${folder.dir} began (SHA-256 ${before.slice(0, 16)}... then, ` +
      `${now.slice(0, 16)}... now). Put the old list back, choose another --run-dir, or start anew with --resume never.`,
  );
}

/** SIGINT, SIGTERM and, but under nohup, SIGHUP ask the loop to stop after the call under way; a second one ends Python at once. */
class StopRequest {
  requested = false;
  runtime: Runtime | undefined;
  readonly #handler = (): void => {
    if (this.requested) this.runtime?.kill();
    this.requested = true;
  };

  constructor() {
    process.on('SIGINT', this.#handler);
    process.on('SIGTERM', this.#handler);
    if (!process.env.COLDFRAME_IGNORE_HUP) process.on('SIGHUP', this.#handler); // the terminal was closed
  }

  release(): void {
    process.off('SIGINT', this.#handler);
    process.off('SIGTERM', this.#handler);
    process.off('SIGHUP', this.#handler);
  }
}

class TrainingRun {
  readonly config: Config;
  readonly folder: RunFolder;
  readonly report: Report;
  readonly stop: StopRequest;
  lists: CheckedLists = {};
  step = 0;
  latest: Record<string, Result> = {};
  #secondsPerStep = 0;
  #hasSaved = false;
  #sincePrint = { clips: 0, dataSeconds: 0, stepSeconds: 0, steps: 0 };

  constructor(config: Config, folder: RunFolder, report: Report, stop: StopRequest) {
    this.config = config;
    this.folder = folder;
    this.report = report;
    this.stop = stop;
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
      const runtime = await starting;
      this.stop.runtime = runtime;
      try {
        await this.attempt(new Session(runtime), this.#hasSaved ? 'auto' : resume);
        return;
      } catch (error) {
        if (this.stop.requested && error instanceof RuntimeFailure) {
          if (this.report.journal !== undefined) this.writeStatus('interrupted');
          throw new Interrupted('stopped at once; the last checkpoint stands');
        }
        const again = error instanceof RuntimeFailure && attempt < this.config.launch.max_restarts;
        if (!again) throw this.recordEnd(error as Error);
        this.report.event({ kind: 'restarted', step: this.step, why: error.message });
      } finally {
        await runtime.close();
      }
      starting = this.startRuntime();
    }
  }

  async attempt(session: Session, resume: string): Promise<void> {
    const opened = await session.open({
      mode: 'train',
      trials: [{ name: 'main', settings: this.config }],
      lists: { train: this.lists.train?.checkedFile ?? null, val: this.lists.val?.checkedFile ?? null },
      classes: this.lists.classes ?? null,
      run_dir: this.folder.dir,
      resume,
    });
    this.begin(opened);
    const { steps } = this.config.train;
    if (this.step > 0 && this.isDue('evaluate') && this.storedResults() === undefined) await this.evaluate(session);
    while (this.step < steps) {
      if (this.stop.requested) return this.interrupt(session);
      this.digest(await session.advance(this.nextCount()));
      if (this.isDue('save')) await this.save(session);
      if (this.isDue('evaluate')) await this.evaluate(session);
    }
    this.writeStatus('finished');
    this.report.event({ kind: 'finished', step: this.step, trials: this.accuracies() });
  }

  /** Takes the folder over: only now is it certain that no other process writes there. */
  begin(opened: Opened): void {
    this.step = opened.step;
    for (const note of opened.notes) this.report.note(note);
    this.folder.dropTornLines();
    this.report.journal = (event) => this.folder.append(event);
    this.folder.writeJson('config.json', this.config);
    this.folder.writeJson('environment.json', describeRun(opened, this.lists));
    this.report.event({
      kind: 'started',
      step: this.step,
      run_dir: this.folder.dir,
      resumed_from: opened.resumed_from,
      device: opened.device,
      precision: opened.precision,
      parameters: opened.parameters,
    });
    this.latest = this.storedResults() ?? {};
    this.writeStatus('running');
  }

  /** Steps until the call is about a second long, and never past the next evaluation or checkpoint. */
  nextCount(): number {
    const { run, eval: evaluation, train: training } = this.config;
    const next = (every: number | null): number =>
      every === null ? training.steps : (Math.floor(this.step / every) + 1) * every;
    const boundary = Math.min(training.steps, next(run.save_every), next(evaluation.every)) - this.step;
    const fitting = this.#secondsPerStep === 0 ? 1 : Math.floor(CALL_SECONDS / this.#secondsPerStep);
    return Math.max(1, Math.min(boundary, fitting, MAX_STEPS_PER_CALL));
  }

  isDue(what: 'save' | 'evaluate'): boolean {
    const { run, eval: evaluation, train: training } = this.config;
    if (what === 'evaluate' && this.lists.val === undefined) return false;
    const every = what === 'save' ? run.save_every : evaluation.every;
    return this.step === training.steps || (every !== null && this.step % every === 0);
  }

  /** A run that was killed between saving and evaluating has none for its step. */
  storedResults(): Record<string, Result> | undefined {
    const stored = this.folder.readJson(`evaluations/step-${this.step}/result.json`);
    return (stored as { results: Record<string, Result> } | undefined)?.results;
  }

  digest(advanced: Advanced): void {
    for (const video of advanced.bad) this.countBadVideo(video);
    for (const step of advanced.steps) this.digestStep(step);
    for (const { trial, why } of advanced.dropped) {
      this.report.event({ kind: 'dropped', step: this.step, trial, why });
    }
    const alive = advanced.steps.at(-1);
    const dropped = new Set(advanced.dropped.map(({ trial }) => trial));
    if (alive !== undefined && Object.keys(alive.trials).every((trial) => dropped.has(trial))) {
      throw new UserError(advanced.dropped.map(({ why }) => `training stopped at ${why}`));
    }
  }

  digestStep(step: Step): void {
    this.step = step.step;
    this.#secondsPerStep = 0.7 * this.#secondsPerStep + 0.3 * step.step_seconds || step.step_seconds;
    const sums = this.#sincePrint;
    sums.clips += step.clips;
    sums.dataSeconds += step.data_seconds;
    sums.stepSeconds += step.step_seconds;
    sums.steps += 1;
    const { steps } = this.config.train;
    const etaSeconds = (steps - this.step) * this.#secondsPerStep;
    if (this.step % this.config.run.print_every === 0 || this.step === steps) {
      for (const [trial, result] of Object.entries(step.trials)) {
        this.report.event({
          kind: 'step',
          step: this.step,
          steps,
          trial,
          ...result,
          clips_per_second: sums.clips / sums.stepSeconds,
          data_seconds: sums.dataSeconds / sums.steps,
          step_seconds: sums.stepSeconds / sums.steps,
          eta_seconds: etaSeconds,
        });
      }
      this.#sincePrint = { clips: 0, dataSeconds: 0, stepSeconds: 0, steps: 0 };
      this.writeStatus('running', { eta_seconds: etaSeconds });
    }
    const speed = `${(step.clips / step.step_seconds).toFixed(1)} clips/s`;
    const waiting = `waiting for data ${((100 * step.data_seconds) / step.step_seconds).toFixed(0)} %`;
    this.report.progress('train', this.step, steps, `${speed}, ${waiting}, ${Math.round(etaSeconds)} s left`);
  }

  countBadVideo(video: BadVideo): void {
    const numBad = this.folder.addBadVideo(video.path, video.reason);
    const numVideos = (this.lists.train?.numLines ?? 0) + (this.lists.val?.numLines ?? 0);
    this.report.event({ kind: 'bad_video', step: this.step, ...video, num_bad: numBad, num_videos: numVideos });
    const limit = this.config.data.max_bad_fraction;
    if (numBad > countAllowed(limit, numVideos)) {
      throw new UserError(
        `${video.path}  ${video.reason}. ${numBad} of ${numVideos} videos cannot be read, and data.max_bad_fraction allows ${limit}. ` +
          `They are listed in ${this.folder.path('bad-videos.tsv')}: mend or remove them, or raise the limit.`,
      );
    }
  }

  async save(session: Session): Promise<void> {
    this.report.event({ kind: 'saved', ...(await session.save()) });
    this.#hasSaved = true;
  }

  async evaluate(session: Session): Promise<void> {
    for (;;) {
      const progress = await session.evaluate(CALL_SECONDS, this.folder.path('evaluations', `step-${this.step}`));
      for (const video of progress.bad) this.countBadVideo(video);
      this.report.progress('evaluate', progress.num_seen, progress.num_total, '');
      if (progress.results !== null) return this.recordEvaluation(progress.results);
      // Taken up again by the next start: evaluations/ has no result for this step.
      if (this.stop.requested) return this.interrupt(session);
    }
  }

  recordEvaluation(results: Record<string, Result>): void {
    this.report.endProgress();
    this.latest = results;
    const { val, classes } = this.lists;
    const list = describeList(val);
    this.folder.writeJson(`evaluations/step-${this.step}/result.json`, { step: this.step, list, classes, results });
    for (const [trial, { per_class, ...result }] of Object.entries(results)) {
      this.report.event({ kind: 'evaluated', step: this.step, trial, ...result, list });
    }
  }

  async interrupt(session: Session): Promise<never> {
    if (this.step > 0) await this.save(session);
    this.writeStatus('interrupted');
    this.report.event({ kind: 'interrupted', step: this.step });
    throw new Interrupted(`stopped at step ${this.step}`);
  }

  recordEnd(error: Error): Error {
    if (!(error instanceof Interrupted) && this.report.journal !== undefined) {
      this.writeStatus('failed', { message: error.message });
      // Only into the journal: cli.ts prints the last error.
      this.folder.append(stampEvent({ kind: 'failed', step: this.step, where: error.name, message: error.message }));
    }
    return error;
  }

  writeStatus(state: Status['state'], more: object = {}): void {
    const { steps } = this.config.train;
    this.folder.writeStatus({ state, step: this.step, steps, trials: this.accuracies(), ...more });
  }

  accuracies(): Record<string, { top1: number; top5: number }> {
    return Object.fromEntries(Object.entries(this.latest).map(([name, { top1, top5 }]) => [name, { top1, top5 }]));
  }
}
