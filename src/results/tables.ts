/** The tables of the report's page as HTML: leaderboard, best configuration, rungs, cohorts, failures. */

import { html, type SafeHtml } from '@remix-run/html-template';
import { formatDuration } from '../base/format.ts';
import { differ, otherMetric } from '../base/intervals.ts';
import { plural } from '../base/words.ts';
import type { Value } from '../config/schema.ts';
import { type SweepView, sumCost } from '../sweep/folder.ts';
import { type PointView, shortenKeys } from '../sweep/leaderboard.ts';
import { day, LABELS, MAX_ROWS, percent, showChance, showSummary, showValue } from './html.ts';
import { renderTable } from './page-parts.ts';

export interface Pruning {
  step: number;
  cohort: string;
  trial: string;
  point: string;
  reason?: string;
  rank?: number;
  num_points?: number;
  metric?: number | null;
  why?: string;
}

/** The points whose difference from the best may be chance alone: measured at its step, on as many videos. */
export function findTies({ points, sweep, numVideos }: SweepView): PointView[] {
  const [best, ...others] = points;
  const top = best?.[sweep.metric]?.mean;
  if (best === undefined || top === undefined || numVideos === null) return [];
  return others.filter((point) => {
    const mean = point[sweep.metric]?.mean;
    const isLike = point.state === best.state && point.step === best.step;
    return isLike && mean !== undefined && !differ(top, numVideos, mean, numVideos);
  });
}

function describeTies(view: SweepView): string {
  const { points, numVideos } = view;
  if (numVideos === null || points[0] === undefined) return '';
  const ties = findTies(view);
  const on = plural(numVideos, 'video');
  return ties.length === 0
    ? `On ${on} the first differs from all others at its step (95 %, Newcombe).`
    : `≈ marks ${ties.length} that tie with the first: on ${on} chance alone may explain the difference (95 %, Newcombe).`;
}

export function renderLeaderboard(view: SweepView): SafeHtml {
  const { metric } = view.sweep;
  const ties = new Set(findTies(view));
  const shown = view.points.slice(0, MAX_ROWS);
  const other = otherMetric(metric);
  const values = shown.flatMap((point) => point[metric]?.mean ?? []);
  const range = { low: Math.min(...values), high: Math.max(...values) };
  const column = (name: string, isNumber: boolean, title = ''): SafeHtml =>
    html`<th scope="col"${isNumber ? html` class="number"` : null}${titleOf(title)}><button type="button">${name}</button></th>`;
  const labels = shortenKeys(view.keys);
  const head = [
    ...[column('rank', true), column('point', false), column(LABELS[metric], true)],
    ...view.keys.map((key, index) => column(labels[index] ?? key, true, key)),
    ...[column('state', false), column(LABELS[other], true), column('seeds', true), column('step', true)],
  ];
  const states = [...new Set(shown.map(({ state }) => state))].map((state) => html`<option>${state}</option>`);
  const hidden = view.points.length - shown.length;
  return html`<section>
<h2>Leaderboard</h2>
<p class="quiet">A row for each point; ${LABELS[metric]} is the mean over its seeds ± their standard deviation. Points that left early
  stand below those that went further: only numbers at one step compare. ${describeTies(view)}${hidden > 0 ? ` The best ${MAX_ROWS} are shown; leaderboard.csv holds all ${view.points.length}.` : ''}</p>
<div class="controls js-only">
<input type="search" id="filter" placeholder="Filter, as in lr=0.001 pruned" aria-label="Filter the points by words">
<select id="state" aria-label="State"><option value="">any state</option>${states}</select>
<button type="button" id="clear">Show all</button><span id="count" class="quiet" aria-live="polite"></span>
</div>
<div class="scroll" id="leaderboard" role="region" aria-label="Leaderboard" tabindex="0"><table>
<thead><tr>${head}</tr></thead>
<tbody>
${shown.map((point) => renderPoint(point, view, { labels, range, isTie: ties.has(point) }))}
</tbody></table></div>
</section>`;
}

const titleOf = (title: string): SafeHtml | null => (title === '' ? null : html` title="${title}"`);

function renderPoint(
  point: PointView,
  view: SweepView,
  { labels, range, isTie }: { labels: string[]; range: { low: number; high: number }; isTie: boolean },
): SafeHtml {
  const { metric } = view.sweep;
  const other = otherMetric(metric);
  const words = view.keys.map((key, index) => `${labels[index]}=${showValue(point.params[key])}`);
  const text = [point.point, point.state, ...point.trials.map(({ name }) => name), ...words].join(' ').toLowerCase();
  const cell = (label: string, value: Value | undefined, shown: string | SafeHtml, kind = 'number'): SafeHtml =>
    html`<td class="${kind}" data-label="${label}" data-value="${value}">${shown}</td>`;
  const tie = isTie ? html`<abbr title="not told apart from the first">≈</abbr> ` : null;
  const mean = point[metric]?.mean;
  const share = mean === undefined ? 0 : range.high > range.low ? (mean - range.low) / (range.high - range.low) : 1;
  const bar =
    mean === undefined ? null : html`<span class="bar"><i style="width:${(8 + 92 * share).toFixed(0)}%"></i></span>`;
  const chance = html`<span${titleOf(showChance(mean, view.numVideos))}>${showSummary(point[metric])}</span>`;
  const seeds = point.trials.map(
    ({ name, seed, state, ...trial }) => `${name}, seed ${seed}: ${percent(trial[metric])} ${state}`,
  );
  const press = html`<button type="button" aria-pressed="false" title="${seeds.join('\n')}">${point.point}</button>`;
  const cells = [
    cell('rank', point.rank, String(point.rank ?? '–')),
    cell('point', point.point, press, 'point'),
    cell(LABELS[metric], mean, html`${tie}${chance}${bar}`, 'number metric'),
    ...view.keys.map((key, index) =>
      cell(labels[index] ?? key, point.params[key], showValue(point.params[key]), 'number key'),
    ),
    cell('state', point.state, point.state, 'state'),
    cell(LABELS[other], point[other]?.mean, showSummary(point[other])),
    cell('seeds', point.numCounted, `${point.numCounted}/${point.trials.length}`),
    cell('step', point.step, String(point.step ?? '–')),
  ];
  const best = point === view.best ? html` class="best"` : null;
  return html`<tr data-point="${point.point}" data-state="${point.state}" data-text="${text}"${best}>${cells}</tr>
`;
}

export function renderPrunings(view: SweepView, prunings: Pruning[]): SafeHtml | null {
  const rungs = view.sweep.bracket?.rungs ?? [];
  const told = new Map(prunings.map((pruning) => [pruning.trial, pruning]));
  const left = view.trials.filter(({ state }) => state === 'pruned' || state === 'diverged');
  if (rungs.length === 0 && left.length === 0) return null;
  const summary = rungs.map((step) => {
    const gone = view.points.filter((point) => point.state === 'pruned' && point.step === step).length;
    const came = view.points.filter(({ trials }) => trials.some((trial) => (trial.step ?? 0) >= step)).length;
    return html`<li>Step ${step}: ${came} came, ${came - gone} went on.</li>`;
  });
  const rows = left
    .toSorted((a, b) => (a.step ?? 0) - (b.step ?? 0))
    .map((trial) => {
      const { rank, num_points, why } = told.get(trial.name) ?? {};
      const place = rank === undefined ? '–' : `${rank} of ${num_points ?? '?'}`;
      return [
        String(trial.step ?? '–'),
        trial.point,
        trial.name,
        trial.state,
        percent(trial[view.sweep.metric]),
        place,
        trial.why ?? why ?? '',
      ];
    });
  const head = ['step', 'point', 'trial', 'state', LABELS[view.sweep.metric], 'rank then', 'why'];
  return html`<section>
<h2>What was left out, and why</h2>
${summary.length > 0 ? html`<p>At each rung the best ${percent(view.sweep.bracket?.keep).replace('.00', '')} of the points that were left in a cohort went on.</p><ul>${summary}</ul>` : null}
${rows.length > 0 ? renderTable(head, rows, 'Trials left out', 6) : html`<p class="quiet">No trial was left out.</p>`}
</section>`;
}

export function renderCost({ cohorts }: SweepView): SafeHtml {
  const { seconds, aloneSeconds } = sumCost(cohorts);
  const most = Math.max(seconds, aloneSeconds ?? 0, 1e-9);
  const bar = (name: string, value: number, kind: string): SafeHtml =>
    html`<span>${name}: ${formatDuration(value)}</span><div class="${kind}" style="--share:${((100 * value) / most).toFixed(1)}%"></div>`;
  const rows = cohorts.map(({ name, state, attempt, trials, seconds: own, cost, step, steps }) => [
    ...[name, state, String(trials.length), String(attempt), step === null ? '–' : `${step}/${steps ?? '?'}`],
    ...[formatDuration(own), cost === null ? '–' : `${(cost.alone / cost.together).toFixed(1)} times`],
  ]);
  return html`<section>
<h2>Cost</h2>
<p class="quiet">Seconds of the cohorts are measured. What every trial would have taken alone, to its last step, follows from the forecast
  number of operations of each.</p>
<div class="bars">${bar('this sweep', seconds, '')}${aloneSeconds === null ? null : bar('each trial alone', aloneSeconds, 'faint')}</div>
${renderTable(['cohort', 'state', 'trials', 'attempts', 'step', 'took', 'alone (forecast)'], rows, 'Cohorts', -1)}
</section>`;
}

export function renderIncidents({ incidents }: SweepView): SafeHtml | null {
  const failures = incidents.filter(({ isStop }) => !isStop);
  if (failures.length === 0) return null;
  const rows = failures.slice(0, MAX_ROWS).map(({ time, cohort, what, why, log }) => {
    const lines = log === null ? null : html`<details><summary>its last lines</summary><pre>${log}</pre></details>`;
    const texts = [day(time), cohort, what].map((text) => html`<td>${text}</td>`);
    return html`<tr>${texts}<td class="text">${why}${lines}</td></tr>`;
  });
  return html`<section><h2>Failures and retries</h2>
<div class="scroll" role="region" aria-label="Failures and retries" tabindex="0"><table>
<thead><tr>${['when', 'cohort', 'what', 'why'].map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows}</tbody></table></div></section>`;
}
