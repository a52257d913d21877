/** The page of `report` as HTML: complete without its script, which draws, sorts, searches and zooms. */

import { basename } from 'node:path';
import { html, type SafeHtml } from '@remix-run/html-template';
import { showPath } from '../../base/errors.ts';
import { formatDuration } from '../../base/format.ts';
import { findInterval, type Metric, mainMetric, showInterval } from '../../base/intervals.ts';
import { plural } from '../../base/words.ts';
import { day, LABELS, percent } from '../html.ts';
import { renderReport, renderTable, renderTile } from '../page-parts.ts';
import type { RunPageData } from '../report-page/run-data.ts';
import { renderClasses } from './classes.ts';
import { renderClips, renderLabelErrors } from './clips.ts';
import { describeChoice } from './honesty.ts';
import { renderMethod } from './method.ts';
import { nameClass, type RunView } from './view.ts';

/** More classes than the matrix can name at once. */
const MANY = 40;

/** `script` makes it move (report-page/build.ts). */
export function renderRunPage(view: RunView, script: string): string {
  const { source } = view;
  const name = source.sweep?.sweep.name ?? basename(source.run.dir);
  const parts = [
    renderHead(view, name),
    renderTiles(view),
    renderConfusion(view),
    renderClasses(view),
    renderClips(view),
    renderLabelErrors(view),
    renderCalibration(view),
    renderCurves(view),
    renderEvaluations(view),
    renderFaults(view),
    renderMethod(view),
  ];
  return renderReport({ title: `${name}: report`, parts, data: gatherData(view), script });
}

function gatherData({ source, analysis, history }: RunView): RunPageData {
  const { evaluation, evaluations, config } = source;
  const metric = mainMetric(evaluation.result);
  const own = evaluations.filter(({ name }) => /^step-\d+$/.test(name));
  return {
    classes: Array.from({ length: analysis.num_classes }, (_, label) => nameClass(source, label)),
    ...{ confusion: analysis.confusion, order: analysis.order, mistakes: analysis.mistakes },
    ...{ steps: config.train.steps, metricLabel: LABELS[metric], loss: history.loss, rate: history.rate },
    metric: own.flatMap(({ step, result }) => {
      const value = result[metric];
      if (value === undefined) return [];
      const { low, high } = metric === 'map' ? { low: null, high: null } : findInterval(value, result.num_videos);
      return [{ step, value, low, high }];
    }),
    reliability: { before: analysis.calibration.before.bins, after: analysis.calibration.after?.bins ?? null },
  };
}

function renderHead(view: RunView, name: string): SafeHtml {
  const { source, warnings } = view;
  const { trial, sweep, evaluation } = source;
  const { list, result, step } = evaluation;
  const of = trial === 'main' ? '' : `, trial ${trial}`;
  const winner = sweep !== null && trial === sweep.final?.trial ? ', the winner of its sweep' : '';
  const views = result.views === undefined ? '' : `, ${plural(result.views, 'view')} of each`;
  const on = list === null ? 'generated clips' : showPath(list.file);
  return html`<header>
<h1>${name}</h1>
<p class="quiet">Report of a training${of}${winner}: step ${step} on ${plural(result.num_videos, 'video')} of
  <span class="mono">${on}</span>${views}. Written ${day(view.written)}.</p>
<p class="quiet">${describeChoice(source)}</p>
${warnings.map((text) => html`<p class="warning">${text}</p>`)}
</header>`;
}

function renderTiles({ source, analysis, history, badVideos }: RunView): SafeHtml {
  const { top1, top5, map, f1, balanced_accuracy: balanced, num_videos: count, num_bad } = source.evaluation.result;
  const chance = (share: number): string => `95 %: ${showInterval(findInterval(share, count))}, Wilson`;
  const { before, after } = analysis.calibration;
  const scaled = after === null ? 'expected calibration error' : `${percent(after.ece)} with a temperature`;
  const results =
    map === undefined
      ? [
          renderTile('top-1', percent(top1), chance(top1)),
          renderTile('top-5', percent(top5), chance(top5)),
          balanced === undefined ? null : renderTile('balanced accuracy', percent(balanced), 'mean of the classes'),
        ]
      : [
          renderTile('mAP', percent(map), 'mean average precision over the classes'),
          f1 === undefined ? null : renderTile('F1', percent(f1), 'mean of the classes, at their thresholds'),
        ];
  const rate = history.clipsPerSecond;
  const waiting = [rate === null ? '' : `${rate.toFixed(1)} clips/s`, took(history.seconds)].filter(Boolean).join('; ');
  const bad = `${num_bad ?? 0} of this list, ${badVideos.length} met in training and evaluation`;
  const errors = String(analysis.num_label_errors ?? analysis.label_errors.length);
  return html`<dl class="tiles">
${results}
${renderTile('Probabilities off by', percent(before.ece), scaled)}
${renderTile('Likely label errors', errors, `of ${plural(analysis.num_videos, 'video')}, by confident learning; ${analysis.label_errors.length} to look at`)}
${renderTile('Waiting for data', percent(history.waiting), waiting)}
${renderTile('Videos not read', String(num_bad ?? 0), bad)}
</dl>`;
}

const took = (seconds: number | null): string => (seconds === null ? '' : `began to end ${formatDuration(seconds)}`);

function renderConfusion({ source, analysis }: RunView): SafeHtml | null {
  if (analysis.is_multi) return null;
  const { pairs, num_classes: count } = analysis;
  const names = [...new Set(pairs.flatMap((pair) => pair.slice(0, 2)))];
  const options = Array.from(
    { length: count },
    (_, label) => html`<option value="${nameClass(source, label)}"></option>`,
  );
  const rows = pairs.map(([a, b, there, back]) => {
    const [one, other] = [nameClass(source, a), nameClass(source, b)];
    return html`<tr data-pair="${a},${b}"><td class="text">${one} <span class="quiet">and</span> ${other}</td><td class="number">${there + back}</td>
<td class="number">${there}</td><td class="number">${back}</td><td class="js-cell"><button type="button">show</button></td></tr>
`;
  });
  const many = count > MANY ? ' Those with most mistakes are in sight at first.' : '';
  const head = html`<tr><th scope="col">classes</th><th scope="col" class="number">videos</th><th scope="col" class="number">first taken for second</th><th scope="col" class="number">second for first</th><th scope="col" class="js-cell">in the matrix</th></tr>`;
  const table = html`<div class="scroll" id="pairs" role="region" aria-label="Largest confusions" tabindex="0"><table>
<thead>${head}</thead><tbody>${rows}</tbody></table></div>`;
  return html`<section id="confusion">
<h2>What is taken for what</h2>
<p class="quiet">A row for each class of the list, a column for each answer; the darker, the more of a row. What lies off the
  diagonal is wrong. Classes that are taken for each other stand side by side.${many}</p>
<div class="js-only">
<div class="controls">
<input type="search" id="find-class" list="class-names" placeholder="Find a class" aria-label="Find a class in the matrix">
<datalist id="class-names">${options}</datalist>
<label>Order <select id="order"><option value="confusion">by confusion</option><option value="mistakes">most mistakes first</option><option value="label">by label</option><option value="name">by name</option></select></label>
<button type="button" id="zoom-in" aria-label="Zoom in">+</button><button type="button" id="zoom-out" aria-label="Zoom out">−</button><button type="button" id="zoom-all">All ${count}</button>
</div>
<div class="matrix"><canvas id="matrix" tabindex="0" role="application" aria-roledescription="confusion matrix" aria-label="Confusion matrix of ${count} classes. Arrow keys move the cell that is told, + and - zoom, Home shows all." aria-describedby="cell"></canvas>
<div><p id="cell" aria-live="polite">Point at a cell, or move with the arrow keys.</p><ul id="cell-videos"></ul></div></div>
</div>
<h3>The largest pairs</h3>
${pairs.length === 0 ? html`<p>No video was taken for another class.</p>` : table}
${names.length === 0 ? null : html`<p class="quiet">${plural(names.length, 'class')} of ${count} ${names.length === 1 ? 'has' : 'have'} a part in these ${plural(pairs.length, 'pair')}.</p>`}
</section>`;
}

function renderCalibration({ source, analysis, fit }: RunView): SafeHtml {
  const { before, after, temperature } = analysis.calibration;
  const checkpoint = showPath(source.run.dir);
  const on =
    fit === null
      ? 'this list: each half of it was scaled by what the other gave'
      : showPath(fit.list?.file ?? fit.name);
  const command = `coldframe predict --checkpoint ${checkpoint} --set eval.temperature=${temperature?.toFixed(3)} VIDEO`;
  const helps = after !== null && after.ece < before.ece;
  const scaled =
    after === null
      ? null
      : html`<p>With a temperature of ${temperature?.toFixed(3)} they are off by <strong>${percent(after.ece)}</strong>; it was fitted on ${on}.
  It changes no ranking and no accuracy.${helps ? '' : ' It does not help here.'}</p>
${helps ? html`<pre tabindex="0">${command}</pre>` : null}`;
  const rows = before.bins.map(([from, to, count, confidence, right]) => [
    `${Math.round(100 * from)} to ${Math.round(100 * to)} %`,
    String(count),
    percent(confidence),
    `${percent(right)} (${showInterval(findInterval(right, count))})`,
  ]);
  const what = analysis.is_multi
    ? 'Every class of every video counts by itself.'
    : 'Of the videos whose best class has such a probability, that share is right.';
  return html`<section>
<h2>Are its probabilities to be believed?</h2>
<p>In the mean they are off by <strong>${percent(before.ece)}</strong> (expected calibration error, 15 bins). ${what}</p>
${scaled}
<figure id="reliability" class="js-only"><div class="plot"></div></figure>
<details><summary>The bins</summary>
${renderTable(['probability', 'videos', 'mean probability', 'share right (95 %)'], rows, 'Calibration', -1)}</details>
</section>`;
}

function renderCurves({ source }: RunView): SafeHtml {
  const label = LABELS[mainMetric(source.evaluation.result)];
  return html`<section class="js-only">
<h2>Learning curves</h2>
<div class="charts">
<figure id="loss"><h3>Training loss</h3><div class="plot"></div></figure>
<figure id="metric"><h3>${label} on the validation list, with its 95 % interval</h3><div class="plot"></div></figure>
<figure id="rate"><h3>Learning rate</h3><div class="plot"></div></figure>
</div>
</section>`;
}

function renderEvaluations({ source }: RunView): SafeHtml {
  const metrics: Metric[] = source.evaluation.result.map === undefined ? ['top1', 'top5'] : ['map'];
  const rows = source.evaluations.map(({ name, step, list, result, folder }) => [
    folder === source.evaluation.folder ? `${name} (this one)` : name,
    String(step),
    list === null ? 'generated' : `${basename(list.file)} ${list.sha256.slice(0, 8)}`,
    String(result.views ?? '–'),
    String(result.num_videos),
    ...metrics.map((metric) => percent(result[metric])),
    metrics[0] === 'map' ? '–' : showInterval(findInterval(result.top1, result.num_videos)),
  ]);
  const head = [
    'evaluation',
    'step',
    'list',
    'views',
    'videos',
    ...metrics.map((one) => LABELS[one]),
    '95 % of the first',
  ];
  return html`<section>
<h2>Every evaluation</h2>
<p class="quiet">Only those of the same list (its name and the beginning of its SHA-256) compare.</p>
${renderTable(head, rows, 'Evaluations', -1)}
</section>`;
}

function renderFaults({ badVideos, history }: RunView): SafeHtml | null {
  if (badVideos.length + history.incidents.length === 0) return null;
  const bad = badVideos.map(({ path, reason, list }) => [list, path, reason]);
  const incidents = history.incidents.map(({ time, step, what }) => [day(time), String(step ?? '–'), what]);
  return html`<section>
<h2>What went wrong</h2>
${bad.length === 0 ? null : html`<h3>Videos that could not be read</h3>${renderTable(['list', 'video', 'why'], bad, 'Videos that could not be read', 2)}`}
${incidents.length === 0 ? null : html`<h3>Interruptions</h3>${renderTable(['when', 'step', 'what'], incidents, 'Interruptions', 2)}`}
</section>`;
}
