/** What a run says at its beginning, before Python is there, and at its end: result, best step, place, what to do next. */

import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { showPath } from '../base/errors.ts';
import { formatTable, percent } from '../base/format.ts';
import { findInterval, METRICS, mainMetric, showInterval } from '../base/intervals.ts';
import { findDevices } from '../base/process/devices.ts';
import { plural, quoteWord } from '../base/words.ts';
import type { Config } from '../config/schema.ts';
import { type ListIdentity, listPlaces } from '../data/checks.ts';
import { describeFinder } from '../data/probe/bad-videos.ts';
import type { Result } from '../runtime/replies.ts';
import { firstSettings, isPlain } from './cohort-file.ts';
import type { CohortFile } from './cohort-types.ts';
import { EVALUATION_FILES, isBetter } from './evaluation.ts';
import { followName, RunFolder } from './folder.ts';

/** The first line: importing torch takes seconds, and nobody should wonder meanwhile. */
export function describeStart(folder: RunFolder, cohort: CohortFile): string {
  const { model, launch, data } = firstSettings(cohort);
  const trials = cohort.trials.length > 1 ? `, ${plural(cohort.trials.length, 'trial')}` : '';
  const { preset, weights } = model.backbone;
  const from = weights === 'random' ? 'random weights' : showPath(weights);
  const lists = [data.train_list, data.val_list].flatMap((file) => (file === null ? [] : [showPath(file)]));
  const loads = ['PyTorch', `${preset} (${from})`, ...lists];
  const device = `${guessDevice(launch.device)}${describeRanks(launch)}`;
  return `Run folder: ${showPath(folder.dir)}${trials}\nDevice: ${device}. Loading ${loads.join(', ')} ...`;
}

function describeRanks({ devices, nodes }: Config['launch']): string {
  if (devices * nodes === 1) return '';
  return nodes === 1 ? `, ${devices} processes` : `, ${nodes} nodes with ${plural(devices, 'process')} each`;
}

/** Only Python knows for certain; it says so in the next line. */
export function guessDevice(device: string): string {
  if (device !== 'auto') return device;
  return findDevices().length > 0 ? 'cuda, if PyTorch can use it (launch.device: auto)' : 'cpu (launch.device: auto)';
}

interface Evaluated {
  step: number;
  result: Result;
  list: ListIdentity | null;
}

interface Stored {
  list?: ListIdentity | null;
  results: Record<string, Result>;
}

/** Returns the evaluations of a plain run, the earliest first. */
function readEvaluations(folder: RunFolder): Evaluated[] {
  return folder.listEvaluations().flatMap((step) => {
    const stored = folder.readJson(`evaluations/step-${step}/result.json`) as Stored;
    const result = stored.results.main;
    return result === undefined ? [] : [{ step, result, list: stored.list ?? null }];
  });
}

/** The last lines of a run: also of one that was finished long ago and is only asked again. */
export function describeOutcome(folder: RunFolder, cohort: CohortFile): string {
  const dir = showPath(folder.dir);
  const evaluated = isPlain(cohort) ? readEvaluations(folder) : [];
  const last = evaluated.at(-1);
  const scores = last === undefined ? 'evaluations' : describeFiles(folder, last.step);
  const place = ['place', `${dir}: checkpoints/latest, ${scores}, events.jsonl, metrics`];
  if (!isPlain(cohort)) return formatTable([place]);
  const rows = [
    ['result', last === undefined ? 'not evaluated: data.val_list is not set' : describeResult(last)],
    ...(last === undefined ? [] : [['best', describeBest(folder, evaluated, last)]]),
    ...describeBad(folder, firstSettings(cohort)),
    place,
  ];
  const steps = listNext(folder).map((command, index) => [index === 0 ? 'next' : '', command]);
  return formatTable([...rows, ...steps]);
}

/** Several labels a video make no table of confusions. */
function describeFiles(folder: RunFolder, step: number): string {
  const place = `evaluations/step-${step}`;
  return `${place} (${EVALUATION_FILES.filter((name) => existsSync(folder.path(place, name))).join(', ')})`;
}

function describeResult({ step, result }: Evaluated): string {
  const { top1, top5, map, num_videos } = result;
  if (map !== undefined) return `mAP ${percent(map)} on ${plural(num_videos, 'video')}, at step ${step}`;
  const show = (share: number): string => `${percent(share)} (95 %: ${showInterval(findInterval(share, num_videos))})`;
  return `top-1 ${show(top1)}, top-5 ${show(top5)} on ${plural(num_videos, 'video')}, at step ${step}`;
}

/** Only those that came up are known, and a list may have more. */
function describeBad(folder: RunFolder, config: Config): string[][] {
  const { train, val } = folder.badVideos();
  const count = new Set([...train.keys(), ...val.keys()]).size;
  if (count === 0) return [];
  const file = showPath(folder.path('bad-videos.tsv'));
  return [['bad', `${plural(count, 'video')} could not be read: ${file}.${describeFinder(listPlaces(config))}`]];
}

/** The best of all, and where its checkpoint is. What was chosen on the list that it is tested on looks better than it is. */
function describeBest(folder: RunFolder, evaluated: Evaluated[], last: Evaluated): string {
  const metric = mainMetric(last.result);
  const shareOf = ({ result }: Evaluated): number => result[metric] ?? 0;
  const best = evaluated.reduce((one, other) => (isBetter(shareOf(other), shareOf(one)) ? other : one));
  const count = plural(evaluated.length, 'evaluation');
  if (best === last) return `step ${last.step}, the last, of ${count}`;
  const where = findKept(folder, best.step) ?? 'its checkpoint is gone (run.keep_best: true keeps it)';
  const chosen = best.list === null ? '' : `; chosen on ${basename(best.list.file)}, where this is too good to be true`;
  return `step ${best.step} of ${count}: ${METRICS[metric]} ${percent(shareOf(best))}; ${where}${chosen}`;
}

/** Returns the checkpoint of a step as a person would name it; a user may have made a copy of it. */
function findKept(folder: RunFolder, step: number): string | undefined {
  const place = (name: string): string => folder.path('checkpoints', name);
  if (followName(place('best')) === place(`step-${step}`)) return showPath(place('best'));
  const kept = [`step-${step}`, `step-${step}-best`].map(place).find(existsSync);
  return kept === undefined ? undefined : showPath(kept);
}

/** Commands that can be pasted as they are. */
function listNext(folder: RunFolder): string[] {
  const show = (...parts: string[]): string => quoteWord(showPath(folder.path(...parts)));
  const checkpoint = show('checkpoints', existsSync(folder.path('checkpoints', 'best')) ? 'best' : 'latest');
  const video = findVideo(folder);
  return [
    `coldframe report ${show()}`,
    ...(video === undefined ? [] : [`coldframe predict --checkpoint ${checkpoint} ${quoteWord(showPath(video))}`]),
    `coldframe export onnx ${checkpoint} --output ${show('model.onnx')}`,
  ];
}

/** What to do with a sweep that has ended, in the folder of the cohort that its best trial ran in. */
export function describeSweepNext(dir: string, best: { trial: string; cohort: string } | undefined): string {
  const commands = [`coldframe sweep report ${quoteWord(showPath(dir))}`];
  if (best !== undefined) {
    const cohort = new RunFolder(join(dir, 'cohorts', best.cohort));
    const checkpoint = quoteWord(showPath(cohort.path('checkpoints', 'latest')));
    const video = findVideo(cohort);
    if (video !== undefined)
      commands.push(`coldframe predict --checkpoint ${checkpoint} --trial ${best.trial} ${quoteWord(showPath(video))}`);
    commands.push(`coldframe train --config ${quoteWord(showPath(join(dir, 'best.yaml')))}`);
  }
  return formatTable(commands.map((command, index) => [index === 0 ? 'next' : '', command]));
}

/** Returns the first video of the validation list, without one of the training list, to try the checkpoint on. */
function findVideo(folder: RunFolder): string | undefined {
  const file = ['val.tsv', 'train.tsv'].map((name) => folder.path('lists', name)).find(existsSync);
  if (file === undefined) return undefined;
  const [line = ''] = readFileSync(file, 'utf8').split('\n', 1);
  const [path = '', , start, end] = line.split('\t');
  if (!existsSync(path)) return undefined;
  return start === undefined ? path : `${path}#t=${start},${end}`;
}
