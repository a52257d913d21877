/** Which training a report is of, and which of its evaluations: RUN, RUN:TRIAL, a sweep's folder, or an evaluation's. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { quoteWord } from '../../base/words.ts';
import { readStoredConfig } from '../../config/migrate.ts';
import type { Config } from '../../config/schema.ts';
import { readFormat } from '../../config/stored-format.ts';
import type { ListIdentity } from '../../data/checks.ts';
import type { CohortFile } from '../../run/cohort-types.ts';
import { RunFolder } from '../../run/folder.ts';
import { isSweepFolder, readSweepFolder, type SweepView } from '../../sweep/folder.ts';

/** As `evaluate` and a training store it; older ones lack some of it. */
export interface StoredResult {
  top1: number;
  top5: number;
  balanced_accuracy?: number;
  map?: number;
  f1?: number;
  num_videos: number;
  num_bad?: number;
  views?: number;
  /** [label, videos, correct] of each class that occurs. */
  per_class: [number, number, number][];
  average_precision?: number[];
}

export interface Evaluation {
  /** Of its folder. */
  name: string;
  folder: string;
  /** The videos' scores; null: they are not there. */
  scores: string | null;
  step: number;
  list: ListIdentity | null;
  classes: string[] | null;
  result: StoredResult;
}

export interface Source {
  /** As the user named it. */
  name: string;
  run: RunFolder;
  trial: string;
  evaluation: Evaluation & { scores: string };
  /** All of the trial, the earliest step first. */
  evaluations: Evaluation[];
  /** Whose winner it is. */
  sweep: SweepView | null;
  /** Where the report goes unless the user says. */
  target: string;
  config: Config;
  environment: Record<string, unknown>;
}

/** Throws UserError where there is no such training, or nothing to report of it. */
export function readSource(name: string, wanted: string | undefined): Source {
  const { dir, trial: named } = splitName(name);
  if (isSweepFolder(dir)) return readWinner(name, dir, named, wanted);
  const inside = existsSync(join(dir, 'result.json')) && basename(dirname(resolve(dir))) === 'evaluations';
  const run = new RunFolder(inside ? dirname(dirname(resolve(dir))) : dir);
  const trial = chooseTrial(name, run, named);
  const target = trial.isOnly ? run.dir : run.path('reports', trial.name);
  const evaluation = wanted ?? (inside ? basename(resolve(dir)) : undefined);
  return describe(name, run, trial.name, { target, wanted: evaluation, sweep: null, more: [] });
}

/** A path that exists is meant as it is; else what follows the last colon is a trial. */
function splitName(name: string): { dir: string; trial: string | undefined } {
  if (existsSync(name)) return { dir: name, trial: undefined };
  const colon = name.lastIndexOf(':');
  if (colon > 0 && existsSync(name.slice(0, colon))) return { dir: name.slice(0, colon), trial: name.slice(colon + 1) };
  throw new UserError(`${name}  does not exist. Give the folder of a run or of a sweep, such as runs/NAME.`);
}

/** The winner as it was evaluated on the validation list; another trial as its cohort left it. */
function readWinner(name: string, dir: string, named: string | undefined, wanted: string | undefined): Source {
  const sweep = readSweepFolder(dir);
  const trial = named ?? sweep.final?.trial;
  if (trial === undefined) {
    const first = sweep.trials[0]?.name ?? 't0001';
    throw new UserError(
      `${name}  has no winner yet. Let the sweep finish, or give a trial, as in ${showPath(dir)}:${first}.`,
    );
  }
  const found = sweep.trials.find((one) => one.name === trial);
  if (found === undefined || found.cohort === null) {
    const known = sweep.trials.flatMap((one) => (one.cohort === null ? [] : [one.name]));
    const some = known.slice(0, 20).join(', ') || 'none yet';
    throw new UserError(`${name}  no trial ${trial} has begun there. The sweep has ${some}.`);
  }
  const run = new RunFolder(join(sweep.dir, 'cohorts', found.cohort));
  const isWinner = trial === sweep.final?.trial;
  const more = isWinner ? [join(sweep.dir, 'final')] : [];
  const target = isWinner ? join(sweep.dir, 'final') : run.path('reports', trial);
  return describe(name, run, trial, { target, wanted: wanted ?? (isWinner ? 'final' : undefined), sweep, more });
}

function chooseTrial(name: string, run: RunFolder, named: string | undefined): { name: string; isOnly: boolean } {
  const cohort = run.readJson('cohort.json') as CohortFile | undefined;
  if (cohort === undefined && !existsSync(run.path('config.json'))) {
    const what = existsSync(join(run.dir, 'checkpoint.json')) ? 'is a checkpoint' : 'holds no config.json';
    throw new UserError(`${name}  ${what}. Give the folder of a run or of a sweep, such as runs/NAME.`);
  }
  const names = cohort?.trials.map((trial) => trial.name) ?? ['main'];
  const [only] = names;
  if (named === undefined && names.length === 1 && only !== undefined) return { name: only, isOnly: true };
  if (named !== undefined && names.includes(named)) return { name: named, isOnly: names.length === 1 };
  const what = named === undefined ? 'holds several trials' : `no trial ${named} is there`;
  throw new UserError(`${name}  ${what}. Give one, as in ${showPath(run.dir)}:${only}. It has ${names.join(', ')}.`);
}

function describe(
  name: string,
  run: RunFolder,
  trial: string,
  about: { target: string; wanted: string | undefined; sweep: SweepView | null; more: string[] },
): Source {
  const { target, wanted, sweep, more } = about;
  const parent = run.path('evaluations');
  const folders = (existsSync(parent) ? readdirSync(parent) : []).map((entry) => join(parent, entry));
  const evaluations = [...folders, ...more].flatMap((folder) => readEvaluation(folder, trial));
  evaluations.sort((a, b) => a.step - b.step || (a.name < b.name ? -1 : 1));
  const evaluation = chooseEvaluation(name, run, trial, evaluations, wanted);
  const { scores } = evaluation;
  if (scores === null)
    throw new UserError(
      `${showPath(evaluation.folder)}  holds no scores of its videos. Evaluate again: ${adviseEvaluation(run, trial)}`,
    );
  return {
    ...{ name, run, trial, evaluations, sweep, target, evaluation: { ...evaluation, scores } },
    ...readSettings(name, run, trial),
  };
}

function adviseEvaluation(run: RunFolder, trial: string): string {
  const which = trial === 'main' ? '' : ` --trial ${trial}`;
  return `coldframe evaluate --checkpoint ${quoteWord(showPath(run.dir))}${which}`;
}

/** The run's own evaluation of the latest step, unless another is asked for. */
function chooseEvaluation(
  name: string,
  run: RunFolder,
  trial: string,
  evaluations: Evaluation[],
  wanted: string | undefined,
): Evaluation {
  if (wanted !== undefined) {
    const found = evaluations.find((one) => one.name === basename(wanted));
    if (found !== undefined) return found;
    const known = evaluations.map((one) => one.name).join(', ') || 'none';
    throw new UserError(`--evaluation  found ${wanted}. ${showPath(run.dir)} has ${known}.`);
  }
  const own = evaluations.filter((one) => /^step-\d+$/.test(one.name));
  const found = own.at(-1) ?? evaluations.at(-1);
  if (found === undefined)
    throw new UserError(`${name}  has no evaluation yet. Make one: ${adviseEvaluation(run, trial)}`);
  return found;
}

function readEvaluation(folder: string, trial: string): Evaluation[] {
  const file = join(folder, 'result.json');
  if (!existsSync(file)) return [];
  const stored = readStored(file);
  const result = stored.results?.[trial];
  if (result === undefined) return [];
  const scores = [`${trial}.scores.npz`, 'scores.npz'].map((one) => join(folder, one)).find(existsSync) ?? null;
  const { step, list, classes } = stored;
  return [{ name: basename(folder), folder, scores, step, list: list ?? null, classes: classes ?? null, result }];
}

interface Stored {
  step: number;
  list?: ListIdentity | null;
  classes?: string[] | null;
  results?: Record<string, StoredResult>;
}

function readStored(file: string): Stored {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Stored;
  } catch (error) {
    throw new UserError(`${showPath(file)}  is not valid JSON: ${(error as Error).message}. Remove its folder.`);
  }
}

function readSettings(name: string, run: RunFolder, trial: string): Pick<Source, 'config' | 'environment'> {
  const cohort = run.readJson('cohort.json') as CohortFile | undefined;
  const file = run.path(cohort === undefined ? 'config.json' : 'cohort.json');
  const settings = cohort?.trials.find((one) => one.name === trial)?.settings ?? run.readJson('config.json');
  if (settings === undefined) throw new UserError(`${name}  config.json is missing in ${showPath(run.dir)}.`);
  const config = readStoredConfig(settings, { file, format: readFormat(cohort ?? settings, file) });
  return { config, environment: (run.readJson('environment.json') ?? {}) as Record<string, unknown> };
}
