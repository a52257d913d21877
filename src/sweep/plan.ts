/** What comes next in a sweep: the points of a round, their cohorts, and what they will cost. */

import { totalmem } from 'node:os';
import { resolve } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { withScratch } from '../base/files.ts';
import { formatBytes, formatDuration, formatTable } from '../base/format.ts';
import { mean } from '../base/intervals.ts';
import type { Report } from '../base/printer.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import { checkLists, filesOf } from '../data/checks.ts';
import { findDevices } from '../executors/local.ts';
import type { Trial } from '../run/cohort-types.ts';
import { findMeasuredStep } from '../run/measured-step.ts';
import { withSession } from '../runtime/with-session.ts';
import {
  type Forecast,
  forecastCost,
  groupShapes,
  groupTrials,
  type PlannedCohort,
  type Shapes,
  shapesOf,
} from './cohorts.ts';
import { describeParams, finalConfig, makeTrials, planPoints, roundSize } from './definition/file.ts';
import { identifyParams, namePoint } from './definition/space.ts';
import type { Told } from './definition/tpe.ts';
import type { Point, Sweep } from './definition/types.ts';
import { compareSweeps, describeExtension, listKnown, readState, refuseChanges } from './extend.ts';
import { type CohortLine, emptyState, type SweepState, type TrialResult } from './journal.ts';

const USABLE_MEMORY = 0.8; // of a machine's: the rest is the system's, the page cache's and the runner's

export type AskForecasts = (shapes: Config[]) => Promise<Forecast[]>;

export interface PlannedRound {
  trials: Trial[];
  cohorts: PlannedCohort[];
  lines: CohortLine[];
  forecasts: Forecast[];
}

/** Asks Python, which takes a moment to start: once for all shapes. */
export async function askForecasts(shapes: Config[]): Promise<Forecast[]> {
  const [first] = shapes;
  if (first === undefined) return [];
  const { stall_seconds: stallSeconds } = first.launch;
  const { models } = await withSession({ stallSeconds }, (session) => session.forecast(shapes));
  return models.map(({ memory, backbone_flops_per_view, decoder_flops_per_view }) => ({
    ...memory,
    backbone_flops_per_view,
    decoder_flops_per_view,
  }));
}

/** Returns the points to try next, none when the sweep has had all. The journal decides, so that a killed runner's successor asks the same. */
export async function nextPoints(sweep: Sweep, state: SweepState): Promise<Point[]> {
  const known = listKnown(state);
  if (sweep.method !== 'tpe') {
    if (state.isPlanned) return [];
    const texts = new Set(known.map(({ params }) => identifyParams(params)));
    const added = planPoints(sweep).filter(({ params }) => !texts.has(identifyParams(params)));
    return added.map((point, index) => ({ ...point, name: namePoint(known.length + index + 1) }));
  }
  const left = (sweep.trials ?? 0) - known.length;
  if (left <= 0 || makeLacking(sweep, state).length > 0) return []; // what is known of the points comes first
  const sizes = [...state.cohorts.values()].map(({ trials }) => trials.length / sweep.seeds.length);
  const size = roundSize(sweep, sizes.length === 0 ? null : Math.floor(Math.max(...sizes)));
  const { suggestPoints } = await import('./definition/tpe.ts'); // it loads execa, which all others can do without
  return suggestPoints(sweep, Math.min(left, size), tellHistory(sweep, state), known.length + 1);
}

/** Returns the trials of planned points with the seeds that were added since. */
function makeLacking(sweep: Sweep, state: SweepState): Trial[] {
  let next = state.trials.size + 1;
  return listKnown(state).flatMap((point) => {
    const seeds = sweep.seeds.filter((seed) => !point.seeds.includes(seed));
    const trials = seeds.length === 0 ? [] : makeTrials({ ...sweep, seeds }, [point], next);
    next += trials.length;
    return trials;
  });
}

/** What is known of every point: its mean over the seeds. */
function tellHistory(sweep: Sweep, state: SweepState): Told[] {
  const points = new Map<string, { params: Point['params']; results: TrialResult[] }>();
  for (const { name, point, params } of state.trials.values()) {
    const one = points.get(point) ?? { params, results: [] };
    points.set(point, one);
    const result = state.results.get(name);
    if (result !== undefined) one.results.push(result);
  }
  return [...points.values()].map(({ params, results }) => tellPoint(params, results, sweep.objective));
}

function tellPoint(params: Point['params'], results: TrialResult[], metric: 'top1' | 'top5'): Told {
  const finished = results.filter(({ state }) => state === 'finished').flatMap((one) => one[metric] ?? []);
  if (finished.length > 0) return { params, value: mean(finished), state: 'complete', intermediate: {} };
  if (results.every(({ state }) => state === 'failed'))
    return { params, value: null, state: 'failed', intermediate: {} };
  const byStep = new Map<number, number[]>();
  for (const { step, ...rung } of results.flatMap(({ rungs }) => rungs)) {
    const value = rung[metric];
    if (value !== null) byStep.set(step, [...(byStep.get(step) ?? []), value]);
  }
  const intermediate = Object.fromEntries([...byStep].map(([step, values]) => [step, mean(values)]));
  return { params, value: null, state: 'pruned', intermediate };
}

/** Groups the trials of some points into cohorts that fit into the memory of a slot. */
export async function planRound(
  sweep: Sweep,
  points: Point[],
  state: SweepState,
  ask: AskForecasts,
): Promise<PlannedRound> {
  const lacking = makeLacking(sweep, state);
  const trials = [...lacking, ...makeTrials(sweep, points, state.trials.size + lacking.length + 1)];
  const { shapes, shapeOf } = shapesOf(trials);
  const forecasts = await ask(shapes);
  const cohorts = groupTrials(trials, {
    forecasts,
    memory_bytes: await findMemory(sweep),
    max_trials: sweep.cohort.max_trials,
    first_index: state.cohorts.size + 1,
  });
  const byName = new Map(trials.map(({ name }, index) => [name, forecasts[shapeOf[index] ?? 0]]));
  const forecastOf = (name: string): Forecast => {
    const forecast = byName.get(name);
    if (forecast === undefined) throw new Error(`nothing was forecast for ${name}`);
    return forecast;
  };
  const lines = cohorts.map((cohort): CohortLine => {
    const { together, alone } = forecastCost([cohort], forecastOf, sweep.bracket);
    const names = cohort.trials.map(({ name }) => name);
    return { cohort: cohort.name, trials: names, forecast_bytes: cohort.forecast_bytes, cost: { together, alone } };
  });
  return { trials, cohorts, lines, forecasts };
}

/** What a slot may use: as the sweep file says, else its share of this machine or of its GPU; of another machine nothing
 * is known here. */
async function findMemory(sweep: Sweep): Promise<number | null> {
  const { kind, slots, memory_bytes: given } = sweep.executor;
  if (given !== null || kind !== 'local') return given;
  const { device, stall_seconds: stallSeconds } = sweep.config.launch;
  const numDevices = device === 'cpu' ? 0 : findDevices().length;
  if (device === 'cuda' && numDevices === 0) return null; // planned here for another machine
  if (numDevices > 0) return askDeviceMemory(device, stallSeconds, Math.ceil(slots / numDevices));
  const limit = process.constrainedMemory() || totalmem(); // of a container
  return Math.floor((USABLE_MEMORY * Math.min(limit, totalmem())) / slots);
}

/** Throws UserError where the sweep is to run here and needs a GPU that is not there; another machine's can be planned. */
export async function checkDevice({ config, executor }: Sweep): Promise<void> {
  const { device, stall_seconds: stallSeconds } = config.launch;
  if (executor.kind === 'local' && device === 'cuda' && findDevices().length === 0)
    await askDeviceMemory(device, stallSeconds, 1);
}

/** Returns the share of what is free on a GPU now. */
async function askDeviceMemory(device: string, stallSeconds: number, numSharers: number): Promise<number> {
  const { free_bytes: freeBytes } = await withSession({ stallSeconds }, (session) => session.memory(device));
  return Math.floor((USABLE_MEMORY * freeBytes) / numSharers);
}

/** Lists, weights and feature caches are read once before anything starts: each cohort would say the same of its own.
 * Throws UserError with the problems of all. */
export async function checkInputs(sweep: Sweep, trials: Trial[], report: Report): Promise<void> {
  const problems = new Set<string>();
  const check: CheckOne = async (work) => {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      for (const problem of error.problems) problems.add(problem);
    }
  };
  const groups = groupShapes(trials);
  const isCached = ([first]: Shapes): boolean => first.data.features !== null;
  const firsts = groups.filter((group) => !isCached(group)).map(([first]) => first);
  for (const config of withOwnLists(firsts)) await check(() => checkLists(config, ['train', 'val'], null, report));
  if (sweep.selection === 'separate') {
    const finals = withOwnLists(firsts.map((settings) => finalConfig(sweep, { settings })));
    for (const config of finals) await check(() => checkLists(config, ['val'], null, report));
  }
  await checkCaches(sweep, groups.filter(isCached), check, report);
  if (problems.size > 0) throw new UserError([...problems]);
}

type CheckOne = (work: () => Promise<unknown>) => Promise<void>;

/** Returns those of the configurations that do not read the same lists and weights as one before. */
function withOwnLists(configs: Config[]): Config[] {
  const seen = new Map(configs.map((config) => [JSON.stringify(inputsOf(config)), config]));
  return [...seen.values()];
}

function inputsOf({ data, model }: Config): unknown[] {
  const { train_list, val_list, root, train_root, val_root, classes, num_classes, dummy } = data;
  return [train_list, val_list, root, train_root, val_root, classes, num_classes, dummy, model.backbone.weights];
}

/** With a feature cache the lists are compared as Python reads them. */
async function checkCaches(sweep: Sweep, groups: Shapes[], check: CheckOne, report: Report): Promise<void> {
  if (groups.length === 0) return;
  await withScratch((scratch) =>
    withSession({}, async (session) => {
      const compare = async (configs: Shapes, wanted: ('train' | 'val')[]): Promise<object> => {
        const lists = await checkLists(configs[0], wanted, scratch, report);
        return session.checkFeatures(configs, filesOf(lists));
      };
      for (const group of groups) {
        await check(() => compare(group, ['train', 'val']));
        if (sweep.selection === 'separate')
          await check(() => compare([finalConfig(sweep, { settings: group[0] })], ['val']));
      }
    }),
  );
}

export interface PlanSum {
  num_trials: number;
  num_cohorts: number;
  /** Multiply-adds. */
  cost: { together: number; alone: number };
  ratio: number;
}

export function sumPlan(lines: CohortLine[]): PlanSum {
  const together = lines.reduce((sum, { cost }) => sum + (cost?.together ?? 0), 0);
  const alone = lines.reduce((sum, { cost }) => sum + (cost?.alone ?? 0), 0);
  const numTrials = lines.reduce((sum, { trials }) => sum + trials.length, 0);
  return { num_trials: numTrials, num_cohorts: lines.length, cost: { together, alone }, ratio: alone / together };
}

const MAX_SHOWN = 20;

/** `sweep --dry-run`: what would be run, and what it would take; nothing is written. */
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
  const { trials, lines } = await planRound(sweep, points, state, ask);
  await checkInputs(sweep, trials, report);
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
    ['executor', `${executor.kind}, ${executor.slots} at a time`],
    ['folder', `${showPath(dir)}: sweep.json, journal.jsonl, cohorts/, final/, best.yaml`],
  ]);
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
