/** `sweep --dry-run`: what would be run, and what it would take. */

import { resolve } from 'node:path';
import { showPath } from '../base/errors.ts';
import { formatBytes, formatDuration, formatTable } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import type { Trial } from '../run/cohort-types.ts';
import { findMeasuredStep } from '../run/measured-step.ts';
import { describeParams } from './definition/file.ts';
import type { Sweep } from './definition/types.ts';
import { compareSweeps, describeExtension, readState, refuseChanges } from './extend.ts';
import { type CohortLine, emptyState } from './journal.ts';
import {
  type AskForecasts,
  askForecasts,
  checkInputs,
  makeRound,
  nextPoints,
  type PlanSum,
  planRound,
  sumPlan,
} from './plan.ts';

const MAX_SHOWN = 20;

/** Says what would be run; nothing is written. */
export async function showPlan(
  sweep: Sweep,
  dir: string,
  report: Report,
  ask: AskForecasts = askForecasts,
): Promise<void> {
  const changes = compareSweeps(dir, sweep);
  refuseChanges(dir, changes);
  const extension = describeExtension(dir, changes);
  if (extension !== undefined) report.note(extension);
  const begun = readState(dir);
  const state = emptyState();
  const points = await nextPoints(sweep, state);
  const trials = makeRound(sweep, points, state);
  await checkInputs(sweep, trials, report);
  const { lines } = await planRound(sweep, trials, state, ask);
  const sum = sumPlan(lines);
  const time = forecastTime(sweep, trials, sum, begun.results.size);
  const told = trials.map(({ name, point, params, seed }) => ({ name, point, params, seed }));
  if (report.json) {
    const counts = { num_points: points.length, num_done: begun.results.size };
    const plan = { sweep: sweep.name, run_dir: resolve(dir), ...counts, ...sum, duration: time };
    report.event({ kind: 'planned', ...plan, cohorts: lines, trials: told });
    return;
  }
  const rows = told
    .slice(0, MAX_SHOWN)
    .map(({ name, point, params, seed }) => [name, point, `seed ${seed}`, describeParams(params)]);
  report.print('This sweep can be run: lists, weights and keys are in order. Dry run: nothing was written.\n');
  report.print(formatTable(rows));
  if (told.length > MAX_SHOWN) report.print(`... ${plural(told.length, 'trial')} in all`);
  report.print('');
  report.print(formatTable(lines.slice(0, MAX_SHOWN).map(describeCohort)));
  if (lines.length > MAX_SHOWN) report.print(`... ${plural(lines.length, 'cohort')} in all`);
  report.print(`\n${describePlan(sweep, dir, points.length, sum, time)}`);
  if (begun.trials.size > 0)
    report.print(
      `begun      ${begun.results.size} of ${plural(trials.length, 'trial')} are done; the same command goes on with the rest`,
    );
}

function describeCohort({ cohort, trials, forecast_bytes: bytes, cost }: CohortLine): string[] {
  const memory = bytes === null ? 'memory not known' : `about ${formatBytes(bytes)}`;
  const range = trials.length === 1 ? trials[0] : `${trials[0]} ... ${trials.at(-1)}`;
  const ratio = cost === null ? '' : `${(cost.alone / cost.together).toFixed(1)} times cheaper than each alone`;
  return [cohort, `${plural(trials.length, 'trial')}`, range ?? '', memory, ratio];
}

function describePlan(sweep: Sweep, dir: string, numPoints: number, sum: PlanSum, time: PlannedTime | null): string {
  const { method, trials, objective, selection, selection_list: list, bracket, executor, config } = sweep;
  const rounds = method === 'tpe' ? `, the first ${numPoints} of ${trials}; the others follow from their results` : '';
  const rungs =
    bracket === null ? 'none' : `after ${bracket.rungs.join(', ')} steps the best ${100 * bracket.keep} % go on`;
  const where = selection === 'validation' ? `${config.data.val_list}: the VALIDATION list itself` : list;
  return formatTable([
    [
      'points',
      `${numPoints} (${method}${rounds}), ${plural(sum.num_trials, 'trial')} in ${plural(sum.num_cohorts, 'cohort')}`,
    ],
    ['pruning', rungs],
    ['selection', `${objective} on ${where}`],
    ['time', describeTime(sweep, time)],
    ['cost', `${sum.ratio.toFixed(1)} times cheaper than each alone (forecast)`],
    ['executor', `${executor.kind}, ${executor.slots} at a time${describeWidth(config)}`],
    ['folder', `${showPath(dir)}: sweep.json, journal.jsonl, cohorts/, final/, best.yaml`],
  ]);
}

function describeWidth({ launch: { nodes, devices } }: Config): string {
  if (nodes === 1 && devices === 1) return '';
  return `, each on ${nodes === 1 ? '' : `${plural(nodes, 'node')} with `}${plural(devices, 'device')}`;
}

interface PlannedTime {
  seconds: number;
  /** The step it follows from, and the run that was measured. */
  step_seconds: number;
  measured_in: string;
}

/** Returns how long the trials that are not done will take, from a step of the base that was measured here; null where none was. */
function forecastTime(sweep: Sweep, trials: Trial[], { cost }: PlanSum, numDone: number): PlannedTime | null {
  const step = findMeasuredStep(sweep.base, sweep.config);
  if (step === null) return null;
  const numSteps = trials.reduce((total, { settings }) => total + settings.train.steps, 0);
  const alone = step.seconds * numSteps;
  const left = Math.max(0, 1 - numDone / trials.length);
  const seconds = (left * alone * cost.together) / cost.alone / sweep.executor.slots;
  return { seconds, step_seconds: step.seconds, measured_in: step.dir };
}

function describeTime(sweep: Sweep, time: PlannedTime | null): string {
  if (time !== null)
    return `about ${formatDuration(time.seconds)} of training (a step took ${time.step_seconds.toFixed(2)} s in ${time.measured_in}); evaluations come on top`;
  const base = showPath(sweep.base);
  return `not known: no step was measured here. \`coldframe train --config ${base} --set train.steps=20\` measures one`;
}
