/** What comes next in a sweep: the points of a round, their cohorts, and what they will cost. */

import { totalmem } from 'node:os';
import { UserError } from '../base/errors.ts';
import { withScratch } from '../base/files.ts';
import { type Metric, mean } from '../base/intervals.ts';
import type { Report } from '../base/printer.ts';
import { findDevices } from '../base/process/devices.ts';
import type { Config } from '../config/schema.ts';
import { Findings } from '../data/check/findings.ts';
import { type Compared, compareLists, filesOf, type Which } from '../data/checks.ts';
import { findShared } from '../data/leaks.ts';
import { tellKnown } from '../data/probe/lists.ts';
import { describeWorkers } from '../data/workers.ts';
import type { Trial } from '../run/cohort-types.ts';
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
import { finalConfig, makeTrials, planPoints, roundSize } from './definition/file.ts';
import { identifyParams, namePoint } from './definition/space.ts';
import type { Told } from './definition/tpe.ts';
import type { Point, Sweep } from './definition/types.ts';
import { listKnown } from './extend.ts';
import type { CohortLine, SweepState, TrialResult } from './journal.ts';

const USABLE_MEMORY = 0.8; // of a machine's: the rest is the system's, the page cache's and the runner's

export type AskForecasts = (shapes: Config[]) => Promise<Forecast[]>;

export interface PlannedRound {
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

function tellPoint(params: Point['params'], results: TrialResult[], metric: Metric): Told {
  const finished = results.filter(({ state }) => state === 'finished').flatMap((one) => one[metric] ?? []);
  if (finished.length > 0) return { params, value: mean(finished), state: 'complete', intermediate: {} };
  if (results.every(({ state }) => state === 'failed'))
    return { params, value: null, state: 'failed', intermediate: {} };
  const byStep = new Map<number, number[]>();
  for (const { step, ...rung } of results.flatMap(({ rungs }) => rungs)) {
    const value = rung[metric];
    if (value != null) byStep.set(step, [...(byStep.get(step) ?? []), value]);
  }
  const intermediate = Object.fromEntries([...byStep].map(([step, values]) => [step, mean(values)]));
  return { params, value: null, state: 'pruned', intermediate };
}

/** Returns the trials of some points, after those that earlier points lack. */
export function makeRound(sweep: Sweep, points: Point[], state: SweepState): Trial[] {
  const lacking = makeLacking(sweep, state);
  return [...lacking, ...makeTrials(sweep, points, state.trials.size + lacking.length + 1)];
}

/** Groups trials into cohorts that fit into the memory of a slot. */
export async function planRound(
  sweep: Sweep,
  trials: Trial[],
  state: SweepState,
  ask: AskForecasts,
): Promise<PlannedRound> {
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
  return { cohorts, lines, forecasts };
}

/** What a process of a slot may use: as the sweep file says, else its share of this machine or of its GPU; of another machine
 * nothing is known here. Processes on a CPU share the memory of their slot, on GPUs each has that of its own. */
async function findMemory({ executor, config }: Sweep): Promise<number | null> {
  const { kind, slots, memory_bytes: given } = executor;
  const { device, devices, stall_seconds: stallSeconds } = config.launch;
  const numDevices = device === 'cpu' ? 0 : findDevices().length;
  const isOnGpu = device === 'cuda' || numDevices > 0;
  if (given !== null) return isOnGpu ? given : Math.floor(given / devices);
  if (kind !== 'local') return null;
  if (device === 'cuda' && numDevices === 0) return null; // planned here for another machine
  if (numDevices > 0) return askDeviceMemory(device, stallSeconds, Math.ceil((slots * devices) / numDevices));
  const limit = process.constrainedMemory() || totalmem(); // of a container
  return Math.floor((USABLE_MEMORY * Math.min(limit, totalmem())) / (slots * devices));
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

/** Reads lists, weights and feature caches once before anything starts, since each cohort would say the same of its own,
 * and tells what two lists share. Throws UserError with the problems of all. */
export async function checkInputs(sweep: Sweep, trials: Trial[], report: Pick<Report, 'note' | 'warn'>): Promise<void> {
  const problems = new Set<string>();
  const told = new Set<string>();
  const warn: Warn = (text) => {
    if (!told.has(text)) report.warn(text);
    told.add(text);
  };
  const check: CheckTrial = async (settings, read) => {
    for (const problem of await checkTrial(sweep, settings, read, warn)) problems.add(problem);
  };
  const groups = groupShapes(trials);
  const isCached = ([first]: Shapes): boolean => first.data.features !== null;
  const firsts = groups.filter((group) => !isCached(group)).map(([first]) => first);
  const read: ReadLists = async (config, wanted) => {
    const { lists, compared } = await compareLists(config, wanted, null, { warn });
    tellKnown(config, lists, warn);
    return compared;
  };
  for (const settings of withOwnLists(firsts)) await check(settings, read);
  await checkCaches(groups.filter(isCached), warn, check);
  if (problems.size > 0) throw new UserError([...problems]);
  const { kind, slots } = sweep.executor;
  const workers = kind === 'local' ? describeWorkers(sweep.config, slots) : undefined;
  if (workers !== undefined) report.note(workers);
}

type Warn = (text: string) => void;
type ReadLists = (config: Config, wanted: Which[]) => Promise<Compared>;
type CheckTrial = (settings: Config, read: ReadLists) => Promise<void>;

const JUDGED = 'the best trial is chosen by clips that are to judge it';

/** Reads the lists of a trial and, where the sweep chooses on one of its own, that of the last evaluation. Returns what is
 * wrong. */
async function checkTrial(sweep: Sweep, settings: Config, read: ReadLists, warn: Warn): Promise<string[]> {
  const problems: string[] = [];
  const collect = async (config: Config, wanted: Which[]): Promise<Compared> => {
    try {
      return await read(config, wanted);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      problems.push(...error.problems);
      return {};
    }
  };
  const { val: selection } = await collect(settings, ['train', 'val']);
  if (sweep.selection !== 'separate') return problems;
  const { val: validation } = await collect(finalConfig(sweep, { settings }), ['val']);
  const findings = new Findings();
  if (selection !== undefined && validation !== undefined) await findShared(selection, validation, JUDGED, findings);
  for (const warning of findings.describeWarnings()) warn(warning);
  return problems;
}

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
async function checkCaches(groups: Shapes[], warn: Warn, check: CheckTrial): Promise<void> {
  if (groups.length === 0) return;
  await withScratch((scratch) =>
    withSession({}, async (session) => {
      for (const group of groups) {
        await check(group[0], async (config, wanted) => {
          const { lists, compared } = await compareLists(config, wanted, scratch, { warn });
          await session.checkFeatures(config === group[0] ? group : [config], filesOf(lists));
          return compared;
        });
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
