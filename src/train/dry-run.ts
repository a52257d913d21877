/** `train --dry-run`: everything is checked and sized, nothing is written. */

import { UserError } from '../base/errors.ts';
import { withScratch } from '../base/files.ts';
import { formatBytes } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import { type CheckedLists, checkLists, filesOf } from '../data/checks.ts';
import { tellKnown } from '../data/probe/lists.ts';
import { describeWorkers } from '../data/workers.ts';
import { firstSettings } from '../run/cohort-file.ts';
import type { CohortFile } from '../run/cohort-types.ts';
import { RunFolder } from '../run/folder.ts';
import { checkPlace, explainLack, refuseSmallDisk } from '../run/place.ts';
import { findPlace } from '../runtime/nodes/place.ts';
import type { FeaturesChecked, ModelForecast } from '../runtime/replies.ts';
import { startRuntime } from '../runtime/runtime.ts';
import { Session } from '../runtime/session.ts';
import { endRuntime, withRuntime } from '../runtime/with-session.ts';
import { checkResume, describeOnwards, findOnwards, type Onwards } from './resume.ts';
import { refuseChangedList } from './train.ts';

export interface PlanRequest {
  cohort: CohortFile;
  runDir: string;
  /** As of a run. */
  resume: string;
}

interface Plan {
  lists: CheckedLists;
  /** null: training reads the videos. */
  features: FeaturesChecked | null;
  model: ModelForecast;
  /** Why this machine cannot do it, and another one can; null: it can. */
  lacks: string | null;
  /** null: it begins anew. */
  onwards: Onwards | null;
}

/** Checks and sizes; `notes` are told after the verdict, as the warnings are. Python loads torch while lists are read. */
export async function planTraining(request: PlanRequest, report: Report, notes: string[]): Promise<void> {
  const config = firstSettings(request.cohort);
  const folder = new RunFolder(request.runDir);
  const told: Told = { notes: [...notes], warnings: [] };
  const starting = startRuntime({ stallSeconds: config.launch.stall_seconds });
  starting.then((runtime) => new Session(runtime).load()).catch(() => {}); // whoever asks next is told
  try {
    await withScratch(async (scratch) => {
      // Only a feature cache is compared with the lists as Python reads them.
      const outDir = config.data.features === null ? null : scratch;
      const { lists, onwards } = await checkBefore(request, folder, outDir, told);
      const plan = await withRuntime(await starting, (session) => makePlan(session, config, folder.dir, lists));
      tellPlan(config, folder, { lists, onwards, ...plan }, told, report);
    });
  } catch (error) {
    await starting.then(endRuntime).catch(() => {});
    if (error instanceof UserError) tellRefusal(error.problems.length, told, report);
    throw error;
  }
}

/** What is said besides, after the verdict. */
interface Told {
  notes: string[];
  warnings: string[];
}

/** Throws UserError with the problems of place, resume, lists and weights at once, before Python is started. */
async function checkBefore(
  request: PlanRequest,
  folder: RunFolder,
  scratch: string | null,
  told: Told,
): Promise<Pick<Plan, 'lists' | 'onwards'>> {
  const problems: string[] = [];
  const config = firstSettings(request.cohort);
  const warn = (text: string): void => void told.warnings.push(text);
  await collect(problems, async () => checkPlace(folder.dir));
  const onwards = await collect(problems, async () => {
    const resume = checkResume(request.resume, folder, request.cohort);
    return findOnwards(resume, folder);
  });
  const lists = await collect(problems, () => checkLists(config, ['train', 'val'], scratch, { warn }));
  if (lists !== undefined && request.resume === 'auto')
    await collect(problems, async () => refuseChangedList(folder, lists));
  if (lists !== undefined) await collect(problems, async () => tellKnown(config, lists, warn));
  if (lists === undefined || onwards === undefined || problems.length > 0) throw new UserError(problems);
  const workers = describeWorkers(config);
  if (workers !== undefined) told.notes.push(workers);
  return { lists, onwards };
}

/** Throws UserError with the problems of feature cache, model and disk at once. */
async function makePlan(
  session: Session,
  config: Config,
  runDir: string,
  lists: CheckedLists,
): Promise<Pick<Plan, 'features' | 'model' | 'lacks'>> {
  const problems: string[] = [];
  const features = await collect(problems, async () =>
    config.data.features === null ? null : session.checkFeatures([config], filesOf(lists)),
  );
  const { model, lacks = null } = (await collect(problems, () => session.describe(config))) ?? {};
  if (model && problems.length === 0)
    await collect(problems, async () =>
      refuseSmallDisk(runDir, model.parameters_trained, config.train.ema_decay !== null),
    );
  if (problems.length > 0) throw new UserError(problems);
  if (features === undefined || !model) throw new Error('describe gave no model');
  return { features, model, lacks: lacks ?? explainLack(config) ?? (await explainLonely(config)) };
}

/** Why a run that is started as this plan was would not find the other machines; a plan needs none of them. */
async function explainLonely({ launch }: Config): Promise<string | null> {
  if (launch.nodes === 1) return null;
  try {
    await findPlace(launch);
    return null;
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}

async function collect<T>(problems: string[], work: () => Promise<T>): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    problems.push(...error.problems);
    return undefined;
  }
}

function tellRefusal(numProblems: number, told: Told, report: Report): void {
  report.note(`This cannot be trained: ${plural(numProblems, 'problem')}. Dry run: nothing was written.`);
  tellBesides(told, report);
}

function tellBesides({ notes, warnings }: Told, report: Report): void {
  for (const note of notes) report.note(note);
  for (const warning of warnings) report.warn(warning);
}

function tellPlan(config: Config, folder: RunFolder, plan: Plan, told: Told, report: Report): void {
  const { lists, features, model, lacks, onwards } = plan;
  const { device, devices, nodes } = config.launch;
  if (device === 'auto' && devices * nodes > 1 && model.memory.device === 'cpu')
    told.notes.push(`No GPU is seen here: planned for processes on CPUs. \`--set launch.device=cuda\` plans for GPUs.`);
  const counts = { train: lists.train?.numLines ?? 0, val: lists.val?.numLines ?? 0 };
  if (report.json) {
    const share = findShare(config);
    const resumed = { resumed_from: onwards?.checkpoint ?? null, start_step: onwards === null ? 0 : onwards.step };
    report.event({ kind: 'planned', config, model, share, lacks, lists: counts, features, ...resumed });
    tellBesides(told, report);
    return;
  }
  const epochs = (config.train.steps * config.train.batch_size) / Math.max(1, counts.train);
  const besides = told.warnings.length === 0 ? '' : ` (${plural(told.warnings.length, 'warning')})`;
  const where = lacks === null ? '' : ' on another machine';
  report.print(
    `This can be trained${where}: lists, weights and keys are in order${besides}. Dry run: nothing was written.`,
  );
  if (lacks !== null) report.note(`Not here: ${lacks}`);
  tellBesides(told, report);
  report.print(
    [
      '',
      `data      ${plural(counts.train, 'video')} to train on (${epochs.toFixed(1)} epochs), ${counts.val} to evaluate on, ${plural(config.data.num_classes, 'class')}`,
      ...(features === null ? [] : [`features  ${describeFeatures(features)}`]),
      `model     ${formatCount(model.parameters_total)} parameters, ${formatCount(model.parameters_trained)} trained; ${(model.flops_per_view / 1e9).toFixed(1)} GFLOPs a view`,
      `batch     ${describeShare(findShare(config))}`,
      `memory    ${describeMemory(model, config.launch)}`,
      `resume    ${describeOnwards(onwards, folder, config.train.steps)}`,
      '',
      'The whole configuration:',
      JSON.stringify(config, null, 2),
    ].join('\n'),
  );
}

/** What each device has of a batch. */
interface Share {
  num_devices: number;
  num_nodes: number;
  clips: number;
  micro_batches: number;
  clips_at_once: number;
}

function findShare({ train, launch }: Config): Share {
  const numDevices = launch.devices * launch.nodes;
  const [clips, parts] = [train.batch_size / numDevices, train.micro_batches];
  const counts = { num_devices: numDevices, num_nodes: launch.nodes };
  return { ...counts, clips, micro_batches: parts, clips_at_once: clips / parts };
}

function describeShare({ num_devices, num_nodes, clips, micro_batches, clips_at_once }: Share): string {
  const parts = micro_batches === 1 ? 'at once' : `in ${micro_batches} micro-batches of ${clips_at_once}`;
  if (num_devices === 1) return `${plural(clips, 'clip')} a step, ${parts}`;
  const nodes = num_nodes === 1 ? '' : ` on ${num_nodes} nodes`;
  return `${num_devices * clips} clips a step: ${clips} on each of ${num_devices} devices${nodes}, ${parts}`;
}

function describeMemory({ memory }: ModelForecast, { devices, nodes }: Config['launch']): string {
  const { device, precision, training_bytes, evaluation_bytes } = memory;
  const each = devices * nodes === 1 ? '' : ` on each device`;
  const all =
    device === 'cpu' && devices > 1 ? `; ${formatBytes(devices * training_bytes)} for ${devices} processes` : '';
  const what = `Python on ${device}, ${precision}; loader workers and Node come on top`;
  return `about ${formatBytes(training_bytes)} to train, ${formatBytes(evaluation_bytes)} to evaluate${each} (${what})${all}`;
}

function describeFeatures({ folder, bytes, ...cache }: FeaturesChecked): string {
  const records = Object.entries(cache.num_records).map(([name, count]) => `${plural(count, `${name} record`)}`);
  const bad = cache.num_bad > 0 ? ` (${cache.num_bad} could not be read)` : '';
  const what = `${cache.form} of ${plural(cache.num_layers, 'layer')}, ${cache.precision}`;
  return `${what}: ${records.join(', ')}${bad}, ${formatBytes(bytes)} in ${folder}`;
}

function formatCount(value: number): string {
  return value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : `${(value / 1e3).toFixed(1)} k`;
}
