/** Taking over a run folder: nobody else writes there, what is unfinished goes on, and its journal begins. */

import { InUse, RuntimeFailure } from '../base/errors.ts';
import { describeRun, filesOf } from '../data/checks.ts';
import { refuseOtherBackbone } from '../run/changes.ts';
import { isPlain, recordCohort } from '../run/cohort-file.ts';
import type { Opened } from '../runtime/replies.ts';
import type { Session } from '../runtime/session.ts';
import type { Training } from './training.ts';

/** Keeps other processes out of the folder; before this nothing is written there. */
export async function lockFolder(run: Training, session: Session): Promise<void> {
  const { note } = await takeOver(run, session.lock(run.folder.dir));
  if (note !== null) run.report.note(note);
}

export async function openSession(run: Training, session: Session, resume: string): Promise<Opened> {
  const request = {
    mode: 'train' as const,
    trials: run.cohort.trials.map(({ name, settings }) => ({ name, settings })),
    lists: filesOf(run.lists),
    classes: run.lists.classes ?? null,
    run_dir: run.folder.dir,
    resume,
  };
  return takeOver(run, session.open(request));
}

/** Writes down what the run is, and begins its journal. */
export function beginJournal(run: Training, opened: Opened): void {
  run.step = opened.step;
  run.clock.restart();
  for (const note of opened.notes) run.report.note(note);
  run.folder.refuseFenced();
  refuseOtherBackbone(run.folder.dir, run.cohort, opened.backbone_sha256);
  run.folder.dropTornLines();
  run.report.journal = (event) => run.folder.append(event);
  run.folder.writeJson('config.json', recordCohort(run.cohort));
  if (!isPlain(run.cohort)) run.folder.writeJson('cohort.json', run.cohort);
  run.folder.writeJson('environment.json', describeRun(opened, run.lists));
  run.standing.resume(run.step, opened.trials, run.folder.readEvents('dropped', run.step));
  const evaluated = run.folder.listEvaluations().findLast((step) => step <= run.step);
  if (evaluated !== undefined) run.standing.evaluated(run.storedResults(evaluated) ?? {});
  const { train: training, model } = run.config;
  run.report.event({
    kind: 'started',
    step: run.step,
    run_dir: run.folder.dir,
    ...{ steps: training.steps, batch_size: training.batch_size, backbone: model.backbone.preset },
    ...{ num_train: run.lists.train?.numLines ?? null, num_val: run.lists.val?.numLines ?? null },
    resumed_from: opened.resumed_from,
    device: opened.device,
    precision: opened.precision,
    parameters: opened.parameters,
    trials: opened.trials,
  });
  run.writeStatus('running');
}

async function takeOver<T>(run: Training, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    // The attempt before this one should have left by now: a scheduler tries again, no person is needed.
    if (error instanceof InUse && run.folder.attempt !== undefined) throw new RuntimeFailure(error.message);
    throw error;
  }
}
