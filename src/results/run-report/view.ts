/** All that a report shows, as one object: what is read of the run, and what Python finds in its scores. */

import type { Interval } from '../../base/intervals.ts';
import { findInterval } from '../../base/intervals.ts';
import type { Analysis, Clip, LabelError, Picture } from '../../runtime/analysis-replies.ts';
import type { History } from './history.ts';
import type { Evaluation, Source } from './source.ts';

export interface BadVideo {
  path: string;
  reason: string;
  list: 'train' | 'val';
}

export interface RunView {
  source: Source;
  analysis: Analysis;
  history: History;
  /** Of the videos that the page names, by name. */
  pictures: ReadonlyMap<string, Picture>;
  badVideos: BadVideo[];
  /** Where the temperature was fitted; null: on the list that is reported, in halves. */
  fit: Evaluation | null;
  /** Says what keeps the numbers from being what they seem; the first is the worst. */
  warnings: string[];
  written: string;
}

export interface ClassRow {
  label: number;
  name: string;
  num_videos: number;
  num_correct: number;
  /** Of its videos that are right; of several labels: found at its threshold. */
  share: number | null;
  interval: Interval | null;
  num_predicted: number | null;
  taken_for: { label: number; name: string; num_videos: number } | null;
  average_precision: number | null;
}

export const nameClass = ({ evaluation }: Source, label: number): string =>
  evaluation.classes?.[label] ?? String(label);

/** Returns the classes that occur or are predicted, in the order of their labels. */
export function listClasses({ source, analysis }: RunView): ClassRow[] {
  const name = (label: number): string => nameClass(source, label);
  const { per_class, average_precision: precisions } = source.evaluation.result;
  if (analysis.is_multi)
    return per_class.map(([label, videos, correct], index) => ({
      ...{ label, name: name(label), num_videos: videos, num_correct: correct, share: correct / videos },
      ...{ interval: findInterval(correct / videos, videos), num_predicted: null, taken_for: null },
      average_precision: precisions?.[index] ?? null,
    }));
  return analysis.classes.map(({ label, num_videos, num_correct, num_predicted, taken_for: taken }) => {
    const share = num_videos === 0 ? null : num_correct / num_videos;
    return {
      ...{ label, name: name(label), num_videos, num_correct, num_predicted, share, average_precision: null },
      interval: share === null ? null : findInterval(share, num_videos),
      taken_for: taken === null ? null : { label: taken[0], name: name(taken[0]), num_videos: taken[1] },
    };
  });
}

/** Returns the classes with videos, the worst first. */
export const listWorst = (view: RunView): ClassRow[] =>
  listClasses(view)
    .filter(({ share }) => share !== null && share < 1)
    .toSorted((a, b) => (a.share ?? 0) - (b.share ?? 0) || b.num_videos - a.num_videos);

/** How many of the label errors are shown with frames; the others stand in a table, and all in the CSV. */
export const NUM_CARDS = 24;

/** The videos that the page shows frames of. */
export function listPictured({ clips, label_errors: errors }: Analysis): string[] {
  const shown: (Clip | LabelError)[] = [...clips.worst, ...(clips.confused ?? []), ...clips.uncertain];
  return [...new Set([...shown, ...errors.slice(0, NUM_CARDS)].map(({ name }) => name))];
}
