/** When a checkpoint is saved besides its turn, and which stay: those of the best evaluations (`run.keep_best`). */

import { existsSync, rmSync } from 'node:fs';
import { describeList } from '../data/checks.ts';
import { isPlain } from '../run/cohort-file.ts';
import { BEST_FILE, type BestFile, recallBests } from '../run/evaluation.ts';
import type { Session } from '../runtime/session.ts';
import type { Results, Training } from './training.ts';

export async function save(run: Training, session: Session): Promise<void> {
  run.folder.refuseFenced();
  run.report.event({ kind: 'saved', ...(await session.save()) });
  run.savedStep = run.step;
  run.clock.restart();
}

/** Takes up what the run has kept so far; what an earlier start kept and this one does not is named no longer. Without
 * its file a link of that name is the user's. */
export async function recallBest(run: Training, session: Session): Promise<void> {
  if (run.config.run.keep_best) run.bests = recallBests(run.folder, run.cohort.metric, run.step);
  else if (!existsSync(run.folder.path(BEST_FILE))) return;
  await tellBest(run, session);
}

/** Keeps the checkpoint of this step where its evaluation is the best so far: the weights are still those. */
export async function keepBest(run: Training, session: Session, results: Results): Promise<void> {
  if (run.bests === null) return;
  if (run.bests.take(run.step, results) && run.savedStep !== run.step) await save(run, session);
  await tellBest(run, session);
}

/** The file first: a reader of `best` finds what it was chosen on. */
async function tellBest(run: Training, session: Session): Promise<void> {
  const trials = run.bests?.of(run.standing.alive) ?? {};
  const file: BestFile = { metric: run.cohort.metric, list: describeList(run.lists.val), trials };
  if (Object.keys(trials).length > 0) run.folder.writeJson(BEST_FILE, file);
  else rmSync(run.folder.path(BEST_FILE), { force: true });
  const steps = [...new Set(Object.values(trials).map(({ step }) => step))];
  await session.spare(steps, isPlain(run.cohort) ? (trials.main?.step ?? null) : null);
}
