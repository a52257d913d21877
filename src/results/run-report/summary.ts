/** A report in short, for the terminal. */

import { showPath } from '../../base/errors.ts';
import { formatTable, percent } from '../../base/format.ts';
import { findInterval, showInterval } from '../../base/intervals.ts';
import { keepLine, plural, quoteWord } from '../../base/words.ts';
import { describeChoice } from './honesty.ts';
import { listPictured, listWorst, nameClass, type RunView } from './view.ts';

const NUM_TOLD = 5;

export function summarizeRun(view: RunView): string {
  const rows = [
    ...[
      ['run', describeRun(view)],
      ['result', describeResult(view)],
    ],
    ...listRows('worst', tellWorst(view)),
    ...listRows('confused', tellPairs(view)),
    ...[
      ['calibration', describeCalibration(view)],
      ['labels', describeLabels(view)],
    ],
    ...listRows('frames', tellFrames(view)),
    ...listRows('training', tellTraining(view)),
    ...listRows('other', tellOthers(view)),
  ];
  const notes = [...view.warnings.map((one) => `Warning: ${one}`), describeChoice(view.source)].filter(Boolean);
  return `${formatTable(rows)}\n\n${notes.join('\n')}\n`;
}

const listRows = (name: string, lines: string[]): string[][] =>
  lines.map((line, index) => [index === 0 ? name : '', line]);

export function describeRun({ source }: RunView): string {
  const { run, trial, evaluation } = source;
  const { list, step, result } = evaluation;
  const of = trial === 'main' ? '' : `, trial ${trial}`;
  const views = result.views === undefined ? '' : `, ${plural(result.views, 'view')}`;
  const on = list === null ? 'generated clips' : showPath(list.file);
  return `${showPath(run.dir)}${of}, step ${step}, on ${plural(result.num_videos, 'video')} of ${on}${views}`;
}

function describeResult({ source }: RunView): string {
  const { top1, top5, map, f1, balanced_accuracy: balanced, num_videos: count } = source.evaluation.result;
  if (map !== undefined) return `mAP ${percent(map)}${f1 === undefined ? '' : `, F1 ${percent(f1)}`}`;
  const told = (share: number): string => `${percent(share)} (95 %: ${showInterval(findInterval(share, count))})`;
  return `top-1 ${told(top1)}, top-5 ${told(top5)}${balanced === undefined ? '' : `, balanced ${percent(balanced)}`}`;
}

function tellWorst(view: RunView): string[] {
  const worst = listWorst(view).slice(0, NUM_TOLD);
  return worst.map(({ name, share, num_correct, num_videos, interval, taken_for: taken }) => {
    const most = taken === null ? '' : `; ${taken.num_videos} taken for ${keepLine(taken.name)}`;
    const range = interval === null ? '' : `, 95 %: ${showInterval(interval)}`;
    return `${keepLine(name)}  ${percent(share)} (${num_correct} of ${num_videos}${range})${most}`;
  });
}

const tellPairs = ({ source, analysis }: RunView): string[] =>
  analysis.pairs.slice(0, NUM_TOLD).map(([a, b, there, back]) => {
    const [one, other] = [keepLine(nameClass(source, a)), keepLine(nameClass(source, b))];
    return `${one} and ${other}  ${there + back} (${there} and ${back})`;
  });

export function describeCalibration({ source, analysis, fit }: RunView): string {
  const { before, after, temperature } = analysis.calibration;
  const now = `probabilities are off by ${percent(before.ece)} in the mean (ECE)`;
  if (after === null || temperature === null) return now;
  const on = fit === null ? 'this list, each half told by the other' : showPath(fit.list?.file ?? fit.name);
  const set = `eval.temperature=${temperature.toFixed(3)}`;
  const checkpoint = quoteWord(showPath(source.run.dir));
  const trial = source.trial === 'main' ? '' : ` --trial ${source.trial}`;
  const use = after.ece < before.ece ? `; coldframe predict --checkpoint ${checkpoint}${trial} --set ${set} VIDEO` : '';
  return `${now}, by ${percent(after.ece)} with a temperature of ${temperature.toFixed(3)} (fitted on ${on})${use}`;
}

const describeLabels = ({ analysis: { label_errors: errors, num_label_errors: count } }: RunView): string => {
  if (errors.length === 0) return 'none looks wrong';
  const about = count === null ? '' : `about ${count} likely wrong; `;
  return `${about}${plural(errors.length, 'video')} to look at in label-errors.csv`;
};

function tellTraining({ history, badVideos }: RunView): string[] {
  const { waiting, clipsPerSecond: rate, incidents } = history;
  const speed = rate === null ? '' : `, ${rate.toFixed(1)} clips/s`;
  return [
    waiting === null ? '' : `waited for data ${percent(waiting)} of the time${speed}`,
    badVideos.length === 0 ? '' : `${plural(badVideos.length, 'video')} could not be read (bad-videos.tsv)`,
    incidents.length === 0 ? '' : `${plural(incidents.length, 'interruption')}, the last: ${incidents.at(-1)?.what}`,
  ].filter(Boolean);
}

/** Other evaluations can be reported, too. */
/** Of a run whose clips lie elsewhere now the page has names alone. */
function tellFrames({ analysis, pictures }: RunView): string[] {
  const shown = listPictured(analysis);
  const missing = shown.filter((name) => !pictures.has(name));
  if (missing[0] === undefined) return [];
  const many = `${missing.length} of ${plural(shown.length, 'video')}`;
  return [
    `of ${many} to look at none can be read here, such as ${showPath(missing[0])}: the page has their names alone`,
  ];
}

function tellOthers({ source }: RunView): string[] {
  const { evaluation, evaluations, name } = source;
  const last = evaluations.findLast((one) => one.folder !== evaluation.folder);
  if (last === undefined) return [];
  const others = plural(evaluations.length - 1, 'evaluation');
  return [`${others}, as with coldframe report ${quoteWord(name)} --evaluation ${last.name}`];
}
