/** What a run says at its beginning, before Python is there, and at its end: result, best step, place, what to do next. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { showPath } from '../base/errors.ts';
import { formatTable, percent } from '../base/format.ts';
import { findInterval, METRICS, mainMetric, showInterval } from '../base/intervals.ts';
import { plural, quoteWord } from '../base/words.ts';
import { findDevices } from '../executors/local.ts';
import type { Result } from '../runtime/replies.ts';
import { firstSettings, isPlain } from './cohort-file.ts';
import type { CohortFile } from './cohort-types.ts';
import { RunFolder } from './folder.ts';

/** The first line: importing torch takes seconds, and nobody should wonder meanwhile. */
export function describeStart(folder: RunFolder, cohort: CohortFile): string {
  const { model, launch, data } = firstSettings(cohort);
  const trials = cohort.trials.length > 1 ? `, ${plural(cohort.trials.length, 'trial')}` : '';
  const { preset, weights } = model.backbone;
  const from = weights === 'random' ? 'random weights' : showPath(weights);
  const lists = [data.train_list, data.val_list].flatMap((file) => (file === null ? [] : [showPath(file)]));
  const loads = ['PyTorch', `${preset} (${from})`, ...lists];
  return `Run folder: ${showPath(folder.dir)}${trials}\nDevice: ${guessDevice(launch.device)}. Loading ${loads.join(', ')} ...`;
}

/** Only Python knows for certain; it says so in the next line. */
export function guessDevice(device: string): string {
  if (device !== 'auto') return device;
  return findDevices().length > 0 ? 'cuda, if PyTorch can use it (launch.device: auto)' : 'cpu (launch.device: auto)';
}

interface Evaluated {
  step: number;
  result: Result;
}

/** Returns the evaluations of a plain run, the earliest first. */
function readEvaluations(folder: RunFolder): Evaluated[] {
  return folder.listEvaluations().flatMap((step) => {
    const stored = folder.readJson(`evaluations/step-${step}/result.json`) as { results: Record<string, Result> };
    const result = stored.results.main;
    return result === undefined ? [] : [{ step, result }];
  });
}

/** The last lines of a run: also of one that was finished long ago and is only asked again. */
export function describeOutcome(folder: RunFolder, cohort: CohortFile): string {
  const dir = showPath(folder.dir);
  const place = ['place', `${dir} (checkpoints/latest, evaluations, events.jsonl, metrics)`];
  if (!isPlain(cohort)) return formatTable([place]);
  const evaluated = readEvaluations(folder);
  const last = evaluated.at(-1);
  const rows = [
    ['result', last === undefined ? 'not evaluated: data.val_list is not set' : describeResult(last)],
    ...(last === undefined ? [] : [['best', describeBest(folder, evaluated, last)]]),
    place,
  ];
  const steps = listNext(folder, last !== undefined).map((command, index) => [index === 0 ? 'next' : '', command]);
  return formatTable([...rows, ...steps]);
}

function describeResult({ step, result }: Evaluated): string {
  const { top1, top5, map, num_videos } = result;
  if (map !== undefined) return `mAP ${percent(map)} on ${plural(num_videos, 'video')}, at step ${step}`;
  const interval = showInterval(findInterval(top1, num_videos));
  return `top-1 ${percent(top1)} (95 %: ${interval}), top-5 ${percent(top5)} on ${plural(num_videos, 'video')}, at step ${step}`;
}

function describeBest(folder: RunFolder, evaluated: Evaluated[], last: Evaluated): string {
  const metric = mainMetric(last.result);
  const shareOf = ({ result }: Evaluated): number => result[metric] ?? 0;
  const best = evaluated.reduce((one, other) => (shareOf(other) > shareOf(one) ? other : one), last);
  const count = plural(evaluated.length, 'evaluation');
  if (best === last) return `step ${last.step}, the last, of ${count}`;
  const kept = ['', '-best'].map((ending) => folder.path('checkpoints', `step-${best.step}${ending}`)).find(existsSync);
  const where = kept === undefined ? 'its checkpoint is gone (run.keep_checkpoints)' : showPath(kept);
  return `step ${best.step} of ${count}: ${METRICS[metric]} ${percent(shareOf(best))}; ${where}`;
}

/** Commands that can be pasted as they are. */
function listNext(folder: RunFolder, isEvaluated: boolean): string[] {
  const checkpoint = quoteWord(showPath(folder.path('checkpoints', 'latest')));
  const video = isEvaluated ? findVideo(folder) : undefined;
  return [
    ...(isEvaluated ? [`coldframe evaluate --checkpoint ${checkpoint}`] : []),
    ...(video === undefined ? [] : [`coldframe predict --checkpoint ${checkpoint} ${quoteWord(showPath(video))}`]),
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

/** Returns the first video of the validation list, to try the checkpoint on. */
function findVideo(folder: RunFolder): string | undefined {
  const file = folder.path('lists', 'val.tsv');
  if (!existsSync(file)) return undefined;
  const [line = ''] = readFileSync(file, 'utf8').split('\n', 1);
  const [path = '', , start, end] = line.split('\t');
  if (!existsSync(path)) return undefined;
  return start === undefined ? path : `${path}#t=${start},${end}`;
}
