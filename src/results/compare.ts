/** `compare`: final metrics of runs side by side, what was set differently, and whether the numbers may be compared. */

import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { formatTable, percent } from '../base/format.ts';
import { type Accuracy, findInterval, pickAccuracy, showInterval } from '../base/intervals.ts';
import { type Difference, getAt, listDifferences } from '../base/objects.ts';
import type { Report } from '../base/printer.ts';
import { readStoredConfig } from '../config/migrate.ts';
import type { Config } from '../config/schema.ts';
import { readFormat } from '../config/stored-format.ts';
import type { CohortFile } from '../run/cohort-types.ts';
import { findIntervals } from '../run/evaluation.ts';
import { RunFolder } from '../run/folder.ts';
import { judgeRun, readSavedStep } from '../run/liveness.ts';
import { readStatus } from '../run/status.ts';
import { finalConfig } from '../sweep/definition/file.ts';
import type { Sweep } from '../sweep/definition/types.ts';
import { isSweepFolder, readSweepFolder } from '../sweep/folder.ts';
import { haveSameVideos, type Pair, pairRuns, tellPairs } from './paired.ts';

interface List {
  file: string;
  sha256: string;
}

interface Result extends Accuracy {
  num_videos: number;
  num_bad?: number;
}

interface Run {
  /** As the user named it. */
  run: string;
  trial: string;
  step: number;
  /** Now, and the step that a start would go on from. */
  state: string;
  saved_step: number | null;
  result: Result;
  list: List | null;
  /** Of every video. */
  scores: string;
  config: Config;
  environment: Record<string, unknown>;
}

/** What may change numbers without any key of the configuration. */
const ENVIRONMENT = [
  'backbone_sha256',
  'git_commit',
  'device',
  'precision',
  'num_threads',
  'cpu',
  'packages.torch',
  'packages.av',
];

/** Compares run folders, RUN:TRIAL, and sweep folders, which stand for their best trial. Throws UserError with all that is missing. */
export async function compareRuns(names: string[], report: Report): Promise<void> {
  if (names.length < 2) throw new UserError(`compare  ${names.length} run was given. Give two or more.`);
  const problems: string[] = [];
  const runs = names.flatMap((name) => {
    try {
      return [readRun(name)];
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      problems.push(...error.problems);
      return [];
    }
  });
  if (problems.length > 0) throw new UserError(problems);
  const config = listDifferences(runs.map((run) => run.config));
  const environment = ENVIRONMENT.flatMap((key) => {
    const values = runs.map((run) => getAt(run.environment, key));
    return listDifferences(values, key);
  });
  const pairs = await pairRuns(runs);
  const warnings = findWarnings(runs, pairs);
  const notes = [...listUnfinished(runs), ...tellPairs(pairs, runs)];
  if (report.json) {
    const each = runs.map(({ config: _config, environment: _environment, scores: _scores, ...run }) => {
      return { ...run, result: { ...run.result, ...intervalsOf(run.result) } };
    });
    report.event({
      kind: 'compared',
      runs: each,
      config,
      environment,
      pairs,
      comparable: warnings.length === 0,
      warnings,
      notes,
    });
    return;
  }
  const tables = [formatTable(listMetrics(runs)), formatTable(tabulateDifferences(runs, config, environment))];
  report.print([...tables, ...warnings.map((warning) => `Warning: ${warning}`), ...notes].filter(Boolean).join('\n\n'));
}

/** A path that exists is meant as it is; else what follows the last colon is a trial. */
function readRun(name: string): Run {
  const colon = name.lastIndexOf(':');
  const isPath = existsSync(name) || colon <= 0;
  const dir = isPath ? name : name.slice(0, colon);
  const trial = isPath ? undefined : name.slice(colon + 1);
  if (!existsSync(dir))
    throw new UserError(`${name}  does not exist. Give run folders, such as runs/NAME or runs/NAME:TRIAL.`);
  return isSweepFolder(dir) ? readSweepRun(name, dir, trial) : readTrialRun(name, dir, trial);
}

/** The best trial as it was evaluated on the validation list; another one as its cohort left it. */
function readSweepRun(name: string, dir: string, trial: string | undefined): Run {
  const { trials, final } = readSweepFolder(dir);
  if (trial === undefined && final === null) {
    const advice = 'Let the sweep finish, or give a trial, as in';
    throw new UserError(`${name}  has no final result yet. ${advice} ${dir}:${trials[0]?.name ?? 't0001'}.`);
  }
  const wanted = trial ?? final?.trial;
  const found = trials.find((one) => one.name === wanted);
  if (found === undefined || found.cohort === null) {
    const known = trials.filter(({ cohort }) => cohort !== null).map((one) => one.name);
    throw new UserError(`${name}  no trial ${wanted} has begun there. The sweep has ${list(known)}.`);
  }
  const folder = join(dir, 'cohorts', found.cohort);
  if (trial !== undefined || final === null) return readTrialRun(name, folder, found.name);
  const { config, environment } = readSettings(name, new RunFolder(folder), found.name);
  const root = new RunFolder(dir);
  const sweep = root.readJson('sweep.json') as Sweep | undefined;
  const stored = root.readJson('final/result.json') as Evaluation | undefined;
  if (sweep === undefined || stored === undefined)
    throw new UserError(
      `${name}  ${sweep === undefined ? 'sweep.json' : 'final/result.json'} is missing in ${root.dir}.`,
    );
  const file = root.path('sweep.json');
  const base = readStoredConfig(sweep.config, { file, format: readFormat(sweep, file) });
  const result = { ...pickAccuracy(final), num_videos: final.num_videos };
  return {
    ...{ run: name, trial: found.name, step: stored.step, result, list: stored.list },
    ...{ state: 'finished', saved_step: stored.step, scores: root.path('final', 'scores.npz') },
    ...{ config: finalConfig({ config: base }, { settings: config }), environment },
  };
}

interface Evaluation {
  step: number;
  list: List | null;
  results: Record<string, Result>;
}

function readTrialRun(name: string, dir: string, trial: string | undefined): Run {
  const folder = new RunFolder(dir);
  const { step, list: evaluated, results } = readEvaluation(name, folder, trial);
  const names = namesOf(folder) ?? Object.keys(results);
  const wanted = trial ?? (names.length === 1 ? names[0] : undefined);
  if (wanted === undefined)
    throw new UserError(`${name}  holds several trials. Give one, as in ${dir}:${names[0]}. It has ${list(names)}.`);
  const result = results[wanted];
  if (result === undefined)
    throw new UserError(`${name}  no trial ${wanted} was evaluated there. It has ${list(names)}.`);
  const { num_videos, num_bad = 0 } = result;
  const file = wanted === 'main' ? 'scores.npz' : `${wanted}.scores.npz`;
  return {
    scores: folder.path('evaluations', `step-${step}`, file),
    ...{ state: stateOf(folder), saved_step: readSavedStep(folder.dir) },
    ...{ run: name, trial: wanted, step, result: { ...pickAccuracy(result), num_videos, num_bad }, list: evaluated },
    ...readSettings(name, folder, wanted),
  };
}

const stateOf = (folder: RunFolder): string => judgeRun(readStatus(folder.path('status.json')) ?? {});

/** The trials of a cohort, those too that were pruned before its last evaluation. */
function namesOf(folder: RunFolder): string[] | undefined {
  return (folder.readJson('cohort.json') as CohortFile | undefined)?.trials.map((trial) => trial.name);
}

/** The last evaluation of a training run; of a trial that was pruned, the last that it took part in. */
function readEvaluation(name: string, folder: RunFolder, trial: string | undefined): Evaluation {
  if (folder.readJson('config.json') === undefined && folder.readJson('cohort.json') === undefined)
    throw new UserError(`${name}  holds no config.json. Give the folder of a run or of a sweep, such as runs/NAME.`);
  const parent = folder.path('evaluations');
  const found = (existsSync(parent) ? readdirSync(parent) : []).flatMap((entry) => {
    const isOwn = /^step-\d+$/.test(entry); // others are of `evaluate`, with views and lists of its own
    const stored = isOwn
      ? (folder.readJson(join('evaluations', entry, 'result.json')) as Evaluation | undefined)
      : undefined;
    return stored === undefined ? [] : [stored];
  });
  found.sort((a, b) => b.step - a.step);
  const last = found.find(({ results }) => trial === undefined || trial in results) ?? found[0];
  if (last === undefined)
    throw new UserError(
      `${name}  has no evaluation yet (evaluations/step-N). Let it train to its first one; it needs data.val_list.`,
    );
  return last;
}

function readSettings(name: string, folder: RunFolder, trial: string): Pick<Run, 'config' | 'environment'> {
  const cohort = folder.readJson('cohort.json') as CohortFile | undefined;
  const file = folder.path(cohort === undefined ? 'config.json' : 'cohort.json');
  const settings = cohort?.trials.find((one) => one.name === trial)?.settings ?? folder.readJson('config.json');
  const environment = folder.readJson('environment.json');
  if (settings === undefined || environment === undefined)
    throw new UserError(
      `${name}  ${settings === undefined ? 'config.json' : 'environment.json'} is missing in ${showPath(folder.dir)}.`,
    );
  const format = readFormat(cohort ?? settings, file);
  return { config: readStoredConfig(settings, { file, format }), environment: environment as Record<string, unknown> };
}

/** Lists with other bytes may still hold the same videos: two of the pairs' runs then share all of them. */
function findWarnings(runs: Run[], pairs: Pair[]): string[] {
  const [first, ...others] = runs;
  if (first === undefined) return [];
  const same = pairs.filter(haveSameVideos).flatMap(({ runs: both }) => both);
  const isSame = (run: Run): boolean => [run.run, first.run].every((name) => same.includes(name));
  const differing = others.filter((run) => run.list?.sha256 !== first.list?.sha256 && !isSame(run));
  const about = (run: Run): string =>
    run.list === null ? 'no list' : `${run.list.file}, ${run.list.sha256.slice(0, 16)}...`;
  const warnings = differing.map(
    (run) =>
      `${run.run} was evaluated on another list than ${first.run} (${about(run)}; ${about(first)}): the results cannot be compared.`,
  );
  const counts = new Set(runs.map(({ result }) => result.num_videos));
  if (differing.length === 0 && counts.size > 1)
    warnings.push(
      `The list is the same, but ${[...counts].join(' and ')} of its videos were counted: some could not be read.`,
    );
  return warnings;
}

const listUnfinished = (runs: Run[]): string[] =>
  runs
    .filter(({ state }) => state !== 'finished' && state !== 'unknown')
    .map(({ run, state, step, saved_step: saved }) => {
      const onwards = saved === null ? 'It has no checkpoint yet' : `Its checkpoint is of step ${saved}`;
      return `${run} is ${state}: these are its numbers at step ${step}. ${onwards}.`;
    });

/** Of runs with several labels a video mAP stands in the place of the others; mixed ones have both, and dashes. */
function listMetrics(runs: Run[]): string[][] {
  const hasMap = runs.some(({ result }) => result.map != null);
  const hasTop = runs.some(({ result }) => result.map == null);
  const rows = runs.map(({ run, trial, state, step, result, list: evaluated }) => [
    ...[run, trial, state, String(step)],
    ...(hasMap ? [percent(result.map)] : []),
    ...(hasTop ? showTop(result) : []),
    String(result.num_videos),
    evaluated === null ? '-' : `${basename(evaluated.file)} ${evaluated.sha256.slice(0, 8)}`,
  ]);
  const metrics = [...(hasMap ? ['mAP'] : []), ...(hasTop ? ['top-1', '95 %', 'top-5'] : [])];
  return [['run', 'trial', 'state', 'step', ...metrics, 'videos', 'list'], ...rows];
}

const intervalsOf = ({ top1, top5, map, num_videos }: Result): object =>
  top1 === null || top5 === null || map != null ? {} : findIntervals({ top1, top5, num_videos });

function showTop({ top1, top5, map, num_videos }: Result): string[] {
  if (map != null) return ['-', '-', '-'];
  const interval = top1 === null ? '-' : showInterval(findInterval(top1, num_videos));
  return [percent(top1), interval, percent(top5)];
}

function tabulateDifferences(runs: Run[], config: Difference[], environment: Difference[]): string[][] {
  const show = (value: unknown): string => {
    const text = value === undefined ? '-' : typeof value === 'string' ? value : JSON.stringify(value);
    return /^[0-9a-f]{40,64}$/.test(text) ? text.slice(0, 16) : text;
  };
  const rows = [...config, ...environment].map(({ key, values }) => [key, ...values.map(show)]);
  return rows.length === 0 ? [['Nothing was set differently.']] : [['differs', ...runs.map(({ run }) => run)], ...rows];
}

const list = (names: string[]): string =>
  names.length === 0
    ? 'none yet'
    : names.slice(0, 20).join(', ') + (names.length > 20 ? ` and ${names.length - 20} more` : '');
