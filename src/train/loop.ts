/** The training loop: advance, evaluate, save, decide. There is one, and it loops over the trials of a cohort. */

import { Interrupted, UserError } from '../base/errors.ts';
import type { EventOf } from '../base/events/event.ts';
import { describeList } from '../data/checks.ts';
import { isPlain } from '../run/cohort-file.ts';
import { describeResult, writeEvaluation } from '../run/evaluation.ts';
import { refuseSmallDisk } from '../run/place.ts';
import type { Advanced, Step } from '../runtime/replies.ts';
import type { Session } from '../runtime/session.ts';
import { keepBest, recallBest, save } from './saving.ts';
import { beginJournal, openSession } from './take-over.ts';
import { CALL_SECONDS, type Results, type Training } from './training.ts';

export async function trainOn(run: Training, session: Session, resume: string): Promise<void> {
  const opened = await openSession(run, session, resume);
  if (opened.step < run.config.train.steps) {
    const { trained } = opened.parameters;
    refuseSmallDisk(run.folder.dir, trained, run.config.train.ema_decay !== null);
  }
  beginJournal(run, opened);
  await recallBest(run, session);
  run.countKnown();
  await settle(run, session);
  while (run.step < run.config.train.steps) {
    if (run.stop.requested) return interrupt(run, session);
    digest(run, await session.advance(run.nextCount()));
    if (run.isRung()) await passRung(run, session, await evaluate(run, session));
    else {
      if (run.isDue('save')) await save(run, session);
      if (run.isDue('evaluate')) await keepBest(run, session, await evaluate(run, session));
    }
  }
  run.writeStatus('finished');
  run.report.event({ kind: 'finished', step: run.step, trials: run.standing.results() });
}

/** Does what a kill or a stop left undone at the step of the checkpoint. */
async function settle(run: Training, session: Session): Promise<void> {
  if (run.step === 0 || !run.isDue('evaluate')) return;
  const stored = run.storedResults(run.step);
  const { alive } = run.standing;
  const isComplete = stored !== undefined && alive.every((name) => name in stored);
  const results = isComplete ? stored : await evaluate(run, session);
  if (!run.isRung()) return isComplete ? undefined : keepBest(run, session, results);
  // A checkpoint saved by a stop in the rung's evaluation still holds the losers; one saved by the rung does not.
  const losers = run.decide(results).filter(({ stays }) => !stays);
  if (losers.some(({ trials }) => trials.some((name) => alive.includes(name)))) await passRung(run, session, results);
}

function digest(run: Training, advanced: Advanced): void {
  run.countBad('train', advanced.bad);
  for (const step of advanced.steps) {
    digestStep(run, step);
    const gone = advanced.dropped.filter((one) => one.step === step.step);
    for (const { trial, why } of gone) dropTrials(run, [{ trial, why, reason: 'diverged' }]);
  }
  run.refreshStatus();
  if (run.standing.alive.length > 0) return;
  const name = (trial: string): string => (isPlain(run.cohort) ? '' : `trial ${trial}: `);
  throw new UserError(advanced.dropped.map(({ trial, why }) => `${name(trial)}training stopped at ${why}`));
}

function digestStep(run: Training, step: Step): void {
  run.step = step.step;
  const { steps } = run.config.train;
  if (step.clips === 0) {
    run.leftOut ??= new Set(run.folder.readEvents('left_out', run.step).map((event) => event.step ?? 0));
    run.leftOut.add(run.step); // a run that goes on passes some again
    run.report.event({ kind: 'left_out', step: run.step, num_left_out: run.leftOut.size });
  }
  const pace = run.pace.add(step, steps);
  if (run.step % run.config.run.print_every === 0 || run.step === steps) {
    const speed = run.pace.takeMeans();
    const labels = run.config.data.labels === 'multi' ? { labels: 'multi' as const } : {};
    const common = { kind: 'step' as const, step: run.step, steps, ...labels };
    run.report.events(
      Object.entries(step.trials).map(([trial, result]) => ({ ...common, trial, ...result, ...speed })),
    );
    run.writeStatus('running');
  }
  run.loss = lowestLoss(step);
  run.report.progress('train', run.step, steps, { ...pace, loss: run.loss });
}

function dropTrials(
  run: Training,
  trials: Omit<EventOf<'dropped'>, 'kind' | 'step' | 'top1' | 'top5' | 'map'>[],
): void {
  for (const { trial, reason } of trials) run.standing.drop(trial, reason, run.step);
  run.report.events(
    trials.map((one) => ({ kind: 'dropped', step: run.step, ...one, ...run.standing.accuracyOf(one.trial) })),
  );
}

async function evaluate(run: Training, session: Session): Promise<Results> {
  for (;;) {
    run.folder.refuseFenced();
    const progress = await session.evaluate(CALL_SECONDS, run.folder.path('evaluations', `step-${run.step}`));
    run.countBad('val', progress.bad);
    dropTrials(
      run,
      progress.dropped.map(({ trial, why }) => ({ trial, why, reason: 'diverged' })),
    );
    run.report.progress('evaluate', progress.num_seen, progress.num_total);
    run.writeStatus('running', { evaluating: { num_seen: progress.num_seen, num_total: progress.num_total } });
    if (progress.results !== null) return recordEvaluation(run, progress.results);
    if (run.clock.isDue && run.savedStep !== run.step) await save(run, session);
    // Taken up again by the next start: evaluations/ has no result for this step.
    if (run.stop.requested) return interrupt(run, session);
  }
}

function recordEvaluation(run: Training, results: Results): Results {
  run.report.endProgress();
  run.standing.evaluated(results);
  const { val, classes } = run.lists;
  const list = describeList(val);
  const write = (name: string, text: string): void => run.folder.write(`evaluations/step-${run.step}/${name}`, text);
  writeEvaluation(write, { step: run.step, list, classes }, results);
  run.report.events(
    Object.entries(results).map(([trial, result]) => {
      return { kind: 'evaluated', step: run.step, trial, ...describeResult(result), list };
    }),
  );
  return results;
}

/** The rung is decided, and only then saved: its checkpoint holds the survivors alone. */
async function passRung(run: Training, session: Session, results: Results): Promise<void> {
  const points = run.decide(results);
  const numLeft = points.filter(({ stays }) => stays).length;
  const common = { metric: run.cohort.metric, num_points: points.length };
  run.report.event({ kind: 'rung', step: run.step, ...common, num_left: numLeft, points });
  const losers = points
    .filter(({ stays }) => !stays)
    .flatMap(({ point, rank, metric, trials }) => {
      const why = `rank ${rank} of ${points.length} by ${run.cohort.metric}; the rung keeps ${numLeft}`;
      return trials.map((trial) => ({ trial, why, reason: 'pruned' as const, point, rank, ...common, metric }));
    });
  if (losers.length > 0) await session.drop(losers.map(({ trial }) => trial));
  dropTrials(run, losers);
  await save(run, session);
  await keepBest(run, session, results);
  run.writeStatus('running');
}

async function interrupt(run: Training, session: Session): Promise<never> {
  if (run.step > 0) await save(run, session);
  run.writeStatus('interrupted');
  run.report.event({ kind: 'interrupted', step: run.step });
  throw new Interrupted(`stopped at step ${run.step}`);
}

function lowestLoss({ trials }: Step): number | null {
  const losses = Object.values(trials).flatMap(({ loss }) => loss ?? []);
  return losses.length === 0 ? null : Math.min(...losses);
}
