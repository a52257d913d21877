/** What an evaluation leaves beside the scores that Python wrote (result.json, per-class.csv, confusion.csv), what is said
 * of its errors, and which one is a trial's best (`run.keep_best`). */

import { existsSync } from 'node:fs';
import { csvFormatRows } from 'd3-dsv';
import { formatTable, percent } from '../base/format.ts';
import { findInterval, type Interval, type Metric, showInterval } from '../base/intervals.ts';
import { keepLine, plural } from '../base/words.ts';
import type { ListIdentity } from '../data/checks.ts';
import type { Result } from '../runtime/replies.ts';
import type { RunFolder } from './folder.ts';

export type Results = Record<string, Result>;

/** The files of one trial; `PREFIX.` stands before them where several have a folder together. */
export const EVALUATION_FILES = ['result.json', 'scores.npz', 'per-class.csv', 'confusion.csv'] as const;

const MAX_CONFUSIONS = 20; // in result.json and in events: confusion.csv has every pair
const MAX_TOLD = 5;

/** What result.json says besides. */
interface About {
  step: number;
  checkpoint?: string;
  list: ListIdentity | null;
  /** The checkpoint was chosen by what it finds on this list. */
  chosen_on_list?: boolean;
  classes: string[] | null | undefined;
}

/** Pairs of a class and another one that its videos were taken for. */
interface Confusion {
  label: number;
  predicted: number;
  count: number;
}

/**
 * Writes them by `write`, result.json last: where it lies, the evaluation is whole. Of a cohort each trial but `main` has
 * its name before those of its own files; `isAlone`: there is but one, whatever its name.
 */
export function writeEvaluation(
  write: (name: string, text: string) => void,
  about: About,
  results: Results,
  isAlone = false,
): void {
  const stored: Record<string, object> = {};
  for (const [trial, result] of Object.entries(results)) {
    const prefix = isAlone || trial === 'main' ? '' : `${trial}.`;
    const nameOf = namer(about.classes);
    write(`${prefix}per-class.csv`, `${csvFormatRows(tabulateClasses(result, nameOf))}\n`);
    const { confusion, ...rest } = result;
    if (confusion !== undefined)
      write(`${prefix}confusion.csv`, `${csvFormatRows(tabulatePairs(confusion, nameOf))}\n`);
    stored[trial] = { ...rest, ...findIntervals(result), ...listLargest(result) };
  }
  write('result.json', `${JSON.stringify({ ...about, results: stored }, null, 2)}\n`);
}

const namer =
  (classes: string[] | null | undefined) =>
  (label: number): string =>
    classes?.[label] ?? String(label);

function tabulateClasses(result: Result, nameOf: (label: number) => string): string[][] {
  const { per_class, average_precision: precisions, confusion = [] } = result;
  const numPredicted = new Map<number, number>();
  for (const [, predicted, count] of confusion) numPredicted.set(predicted, (numPredicted.get(predicted) ?? 0) + count);
  const more = precisions === undefined ? ['predicted'] : ['average_precision'];
  const rows = per_class.map(([label, videos, correct], index) => {
    const { low, high } = findInterval(correct / videos, videos);
    const last = precisions === undefined ? (numPredicted.get(label) ?? 0) : precisions[index];
    return [nameOf(label), ...[label, videos, correct, correct / videos, low, high, last].map(String)];
  });
  return [['class', 'label', 'videos', 'correct', 'top1', 'low', 'high', ...more], ...rows];
}

function tabulatePairs(confusion: [number, number, number][], nameOf: (label: number) => string): string[][] {
  const rows = confusion.map(([label, predicted, count]) => [nameOf(label), nameOf(predicted), String(count)]);
  return [['true', 'predicted', 'count'], ...rows];
}

type Shares = Pick<Result, 'top1' | 'top5' | 'num_videos'> & { map?: number | undefined };

/** The 95 % intervals of its accuracies. Of several labels a video there are none: mAP is no share of videos. */
export function findIntervals({ map, top1, top5, num_videos }: Shares): {
  top1_interval?: Interval;
  top5_interval?: Interval;
} {
  if (map !== undefined) return {};
  return { top1_interval: findInterval(top1, num_videos), top5_interval: findInterval(top5, num_videos) };
}

/** The pairs that were taken for each other most often. */
function listLargest({ confusion }: Result): { confusions?: Confusion[] } {
  if (confusion === undefined) return {};
  const wrong = confusion.filter(([label, predicted]) => label !== predicted);
  wrong.sort(([, , one], [, , other]) => other - one); // stable: of equal ones the lower label is first
  return {
    confusions: wrong.slice(0, MAX_CONFUSIONS).map(([label, predicted, count]) => ({ label, predicted, count })),
  };
}

/** Returns what an `evaluated` event says of a trial, less the place of its list and files. */
export function describeResult({ per_class, average_precision, thresholds, confusion, ...result }: Result) {
  return { ...result, ...findIntervals(result) };
}

/** The same with each class, as `evaluate` tells it. */
export function describeClasses(result: Result, classes: string[] | null | undefined) {
  const nameOf = namer(classes);
  const per_class = result.per_class.map(([label, num_videos, correct], index) => {
    const top1 = correct / num_videos;
    const precision = result.average_precision?.[index];
    return {
      ...{ label, name: nameOf(label), num_videos, top1, top1_interval: findInterval(top1, num_videos) },
      ...(precision === undefined ? {} : { average_precision: precision }),
    };
  });
  return { per_class, ...listLargest(result) };
}

/** Returns the worst classes and the largest confusions for people, '' where nothing went wrong. */
export function describeErrors(result: Result, classes: string[] | null | undefined): string {
  const nameOf = (label: number): string => keepLine(namer(classes)(label));
  const { confusions = [] } = listLargest(result);
  const parts = [tellWorst(result, nameOf)];
  const told = confusions.slice(0, MAX_TOLD).map(({ label, predicted, count }) => {
    const videos = result.per_class.find(([one]) => one === label)?.[1] ?? 0;
    return [`  ${nameOf(label)}`, `taken for ${nameOf(predicted)}`, `${count} of ${plural(videos, 'video')}`];
  });
  if (told.length > 0) parts.push(`largest confusions\n${formatTable(told)}`);
  return parts.filter(Boolean).join('\n');
}

/** Of equal shares that of more videos first: it is known better. */
function tellWorst({ per_class, map }: Result, nameOf: (label: number) => string): string {
  const faulty = per_class.filter(([, videos, correct]) => correct < videos);
  if (faulty.length === 0) return '';
  faulty.sort(([, videos, correct], [, others, right]) => correct / videos - right / others || others - videos);
  const rows = faulty.slice(0, MAX_TOLD).map(([label, videos, correct]) => {
    const share = correct / videos;
    const interval = showInterval(findInterval(share, videos));
    return [`  ${nameOf(label)}`, percent(share), `(95 %: ${interval})`, `${correct} of ${plural(videos, 'video')}`];
  });
  const more = faulty.length > MAX_TOLD ? ` (${MAX_TOLD} of the ${faulty.length} that have errors)` : '';
  const what = map === undefined ? 'worst classes' : 'classes whose videos are found least, at their thresholds';
  return `${what}${more}\n${formatTable(rows)}`;
}

// ---- the best of a run ----

export interface Best {
  step: number;
  value: number;
}

/** evaluations/best.json. */
export interface BestFile {
  metric: Metric;
  /** That it was chosen on: what it finds there is too good to be true. */
  list: ListIdentity | null;
  trials: Record<string, Best>;
}

export const BEST_FILE = 'evaluations/best.json';

/** Of equal ones the later: it has seen more. */
export const isBetter = (value: number, than: number | undefined): boolean => than === undefined || value >= than;

/** The best evaluation so far of each trial, by the metric that the cohort is ranked by. */
export class Bests {
  readonly #metric: Metric;
  readonly #best = new Map<string, Best>();

  constructor(metric: Metric) {
    this.#metric = metric;
  }

  /** Takes an evaluation in; returns whether it is a trial's best. */
  take(step: number, results: Record<string, Partial<Result>>): boolean {
    const better = Object.entries(results).filter(([trial, result]) => {
      const value = result[this.#metric];
      if (value === undefined || !isBetter(value, this.#best.get(trial)?.value)) return false;
      this.#best.set(trial, { step, value });
      return true;
    });
    return better.length > 0;
  }

  /** Those of the trials that are left. */
  of(alive: string[]): Record<string, Best> {
    return Object.fromEntries(
      alive.flatMap((trial) => {
        const best = this.#best.get(trial);
        return best === undefined ? [] : [[trial, best]];
      }),
    );
  }
}

/** Returns whether this is the step of a trial that was chosen by what it finds on this list. */
export function isChosenOn(folder: RunFolder, trial: string, step: number, list: ListIdentity | null): boolean {
  const best = folder.readJson(BEST_FILE) as BestFile | undefined;
  return list !== null && best?.list?.sha256 === list.sha256 && best.trials[trial]?.step === step;
}

/** Returns the best of the evaluations up to a step whose checkpoints are there. */
export function recallBests(folder: RunFolder, metric: Metric, step: number): Bests {
  const bests = new Bests(metric);
  for (const one of folder.listEvaluations().filter((passed) => passed <= step)) {
    if (!existsSync(folder.path('checkpoints', `step-${one}`, 'checkpoint.json'))) continue;
    const stored = folder.readJson(`evaluations/step-${one}/result.json`) as { results: Record<string, Result> };
    bests.take(one, stored.results);
  }
  return bests;
}
