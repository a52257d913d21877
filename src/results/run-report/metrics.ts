/** A report's numbers for programs: metrics.json, and the labels that are likely wrong as a table for who corrects them. */

import { findInterval } from '../../base/intervals.ts';
import type { Clip } from '../../runtime/analysis-replies.ts';
import { describeChoice } from './honesty.ts';
import { listClasses, nameClass, type RunView } from './view.ts';

/** The form of metrics.json: a reader may ask for it. */
const FORMAT = 1;

export function describeMetrics(view: RunView) {
  const { source, analysis, history } = view;
  const { trial, evaluation, config, environment } = source;
  const { result, list } = evaluation;
  const { num_videos, top1, top5, balanced_accuracy, map, f1, num_bad = 0, views = null } = result;
  const { before, after, temperature } = analysis.calibration;
  return {
    ...{ format: FORMAT, written: view.written, run: source.run.dir, trial, step: evaluation.step },
    ...{ evaluation: evaluation.name, list, num_videos, num_bad, views },
    ...{ top1, top1_interval: findInterval(top1, num_videos), top5, top5_interval: findInterval(top5, num_videos) },
    ...{ balanced_accuracy, map, f1, warnings: view.warnings, chosen: describeChoice(source) },
    ece: before.ece,
    calibration: { before, after, temperature, fitted_on: view.fit?.list?.file ?? null },
    ...{ per_class: listClasses(view), confusion: analysis.confusion },
    pairs: analysis.pairs.map(([a, b, there, back]) => ({
      classes: [nameClass(source, a), nameClass(source, b)],
      num_videos: [there, back],
    })),
    clips: Object.fromEntries(
      Object.entries(analysis.clips).map(([kind, clips = []]) => [kind, clips.map((clip) => nameClip(view, clip))]),
    ),
    num_label_errors: analysis.num_label_errors,
    label_errors: analysis.label_errors.map((error) => ({
      ...{ ...nameClip(view, error), suggested: nameClass(source, error.suggested), is_missing: error.is_missing },
      margin: error.margin,
    })),
    bad_videos: view.badVideos,
    training: {
      ...{ seconds: history.seconds, waiting_for_data: history.waiting, clips_per_second: history.clipsPerSecond },
      ...{ loss: history.loss, metric: history.metric, incidents: history.incidents },
    },
    ...{ config, environment },
  };
}

function nameClip({ source }: RunView, { name, labels, best }: Clip) {
  const tell = ([label, probability]: [number, number]) => ({ label, name: nameClass(source, label), probability });
  return { path: name, labels: labels.map(tell), best: best.map(tell) };
}

type Row = Record<string, string | number>;

/** Returns rows and columns, the likeliest error first: what stands in the list, and what it rather is. */
export function listLabelErrors({ source, analysis }: RunView): [Row[], string[]] {
  const rows = analysis.label_errors.map(({ name, labels, best, suggested, is_missing, margin }): Row => {
    const known = [...labels, ...best].find(([label]) => label === suggested);
    const about = { suggested_label: suggested, suggested_class: nameClass(source, suggested) };
    const likely = { probability_of_suggested: known?.[1] ?? '', margin };
    if (is_missing !== undefined)
      return { path: name, ...labelsOf(labels), what: is_missing ? 'add' : 'remove', ...about, ...likely };
    return { path: name, ...labelsOf(labels), probability_of_label: labels[0]?.[1] ?? '', ...about, ...likely };
  });
  const common = ['suggested_label', 'suggested_class', 'probability_of_suggested', 'margin'];
  const own = analysis.is_multi ? ['what'] : ['probability_of_label'];
  return [rows, ['path', 'label', 'class', ...own, ...common]];

  function labelsOf(of: [number, number][]): Row {
    const list = of.map(([label]) => label);
    return { label: list.join(','), class: list.map((label) => nameClass(source, label)).join(', ') };
  }
}
