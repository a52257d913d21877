/** The page of `sweep report` as HTML: complete without its script, which sorts, filters and draws. */

import { basename, dirname } from 'node:path';
import { html, type SafeHtml } from '@remix-run/html-template';
import { formatDuration } from '../base/format.ts';
import { plural } from '../base/words.ts';
import { type SweepView, sumCost } from '../sweep/folder.ts';
import { shortenKeys } from '../sweep/leaderboard.ts';
import { renderEffects } from './effects-html.ts';
import { day, LABELS, MAX_ROWS, percent, showChance, showValue } from './html.ts';
import { renderFacts, renderReport, renderTile } from './page-parts.ts';
import type { CurveData, PageData } from './report-page/sweep-data.ts';
import { findTies, type Pruning, renderCost, renderIncidents, renderLeaderboard, renderPrunings } from './tables.ts';

export interface Page {
  view: SweepView;
  curves: CurveData[];
  /** Trials that are too many to draw. */
  numHidden: number;
  prunings: Pruning[];
  list: unknown;
  bestYaml: string | null;
  written: string;
  /** What makes it move (report-page/build.ts). */
  script: string;
}

/** Returns the whole page. */
export function renderPage(page: Page): string {
  const { view } = page;
  const title = `${view.sweep.name}: sweep`;
  const parts = [
    renderHead(view),
    renderTiles(view),
    renderBest(page),
    renderLeaderboard(view),
    renderDifference(view),
    renderCharts(page),
    renderPrunings(view, page.prunings),
    renderCost(view),
    renderIncidents(view),
    renderMethod(page),
  ];
  return renderReport({ title, parts, data: gatherData(page), script: page.script });
}

function gatherData({ view, curves }: Page): PageData {
  const { metric, bracket, steps } = view.sweep;
  const drawn = new Set(curves.map(({ point }) => point));
  const points = view.points.filter(({ point }, index) => drawn.has(point) || index < MAX_ROWS);
  return {
    ...{ keys: view.keys, labels: shortenKeys(view.keys), metricLabel: LABELS[metric], steps: steps ?? null },
    ...{ rungs: bracket?.rungs ?? [], best: view.best?.point ?? null, curves },
    points: points.map((point) => ({
      ...{ name: point.point, state: point.state, params: point.params, metric: point[metric]?.mean ?? null },
      drawn: drawn.has(point.point),
    })),
  };
}

function renderHead(view: SweepView): SafeHtml {
  const { sweep, state, began, updated } = view;
  const validation = html`<p class="warning"><strong>The choice was made on the validation list.</strong> The sweep file says
    <code>selection: validation</code>: the numbers below chose the winner, so they are too high for it, the final
    result too. Only a list that nothing was chosen on can say how good it is.</p>`;
  return html`<header>
<h1>${sweep.name}</h1>
<p class="quiet">Sweep of ${plural(view.points.length, 'point')}, ${plural(view.trials.length, 'trial')} in ${plural(view.cohorts.length, 'cohort')}.
  ${state[0]?.toUpperCase()}${state.slice(1)}; began ${day(began)}, last written ${day(updated)}.</p>
${explainWords(view)}
${describeState(view)}
${sweep.selection === 'validation' ? validation : null}
</header>`;
}

/** Each word of the page that is ours, once. */
function explainWords({ sweep }: SweepView): SafeHtml {
  const rung =
    sweep.bracket === null ? null : html` At a <em>rung</em>, a step set beforehand, only the best points go on.`;
  const list =
    sweep.selection === 'validation'
      ? null
      : html` The <em>selection list</em> holds the videos that the best is chosen on.`;
  return html`<p class="quiet">A <em>point</em> is one choice of settings, a <em>trial</em> its training with one seed; the trials of a
  <em>cohort</em> share the clips and the frozen backbone, which makes them cheap.${rung}${list}</p>`;
}

function describeState({ state, message }: SweepView): SafeHtml | null {
  if (state === 'finished') return null;
  if (state === 'running') return html`<p>These are the results so far.</p>`;
  if (state === 'interrupted')
    return html`<p>It was stopped and has not finished: these are the results so far. The same command goes on.</p>`;
  return html`<p class="warning">The sweep has not finished: these are the results so far. ${message}</p>`;
}

function renderTiles(view: SweepView): SafeHtml {
  const { sweep, best, final, cohorts } = view;
  const label = LABELS[sweep.metric];
  const { seconds, aloneSeconds } = sumCost(cohorts);
  const spread = best?.[sweep.metric]?.spread;
  const overSeeds = best !== null && best.numCounted > 1 ? `, mean of ${best.numCounted} seeds` : '';
  const counts = new Map<string, number>();
  for (const { state } of view.trials) counts.set(state, (counts.get(state) ?? 0) + 1);
  const list = sweep.selection === 'validation' ? 'validation list' : 'selection list';
  const note = (share: number | null | undefined, count: number | null): string => {
    const chance = showChance(share, count);
    return chance === '' ? '' : `; ${chance}`;
  };
  const numTies = findTies(view).length;
  const tied = numTies === 0 ? '' : `; ${plural(numTies, 'other point')} cannot be told from it`;
  const top = html`${percent(best?.[sweep.metric]?.mean)}${spread == null ? null : html` <small>± ${(100 * spread).toFixed(2)}</small>`}`;
  const chosen =
    best === null
      ? 'no result yet'
      : `${best.point}${overSeeds}${note(best[sweep.metric]?.mean, view.numVideos)}${tied}`;
  const tested =
    final === null
      ? 'not evaluated yet'
      : `${final.trial} (seed ${final.seed}), evaluated once on ${plural(final.num_videos, 'video')}${note(final[sweep.metric], final.num_videos)}`;
  const states = [...counts].map(([state, count]) => `${count} ${state}`).join(', ');
  const alone =
    aloneSeconds === null
      ? ''
      : `each trial alone: ${formatDuration(aloneSeconds)}, ${(aloneSeconds / seconds).toFixed(1)} times as long (forecast)`;
  return html`<dl class="tiles">
${renderTile(`Best ${label}, ${list}`, top, chosen)}
${renderTile(`Final ${label}, validation list`, percent(final?.[sweep.metric]), tested)}
${renderTile('Trials', String(view.trials.length), states)}
${renderTile('Time of the cohorts', formatDuration(seconds), alone)}
</dl>`;
}

function renderBest({ view, bestYaml }: Page): SafeHtml | null {
  const { best } = view;
  if (best === null || bestYaml === null) return null;
  const facts = Object.entries(best.params).map(
    ([key, value]) => html`<dt class="mono">${key}</dt><dd>${showValue(value)}</dd>`,
  );
  return html`<section>
<h2>Best configuration</h2>
<dl class="facts">${facts}</dl>
<div class="controls js-only"><button type="button" id="copy">Copy</button><span class="quiet">for <code>coldframe train --config</code></span></div>
<details><summary>The file</summary>
<pre id="best-yaml" tabindex="0">${bestYaml}</pre></details>
</section>`;
}

function renderDifference(view: SweepView): SafeHtml | null {
  if (view.keys.length === 0 || view.points.length < 2) return null;
  return html`<section>
<h2>What made the difference</h2>
${renderEffects(view)}
</section>`;
}

function renderCharts({ view, curves, numHidden }: Page): SafeHtml {
  const note = numHidden > 0 ? ` Drawn are the best ${curves.length} trials; ${numHidden} more are left out.` : '';
  const label = LABELS[view.sweep.metric];
  const charts = html`<div class="charts">
<figure id="loss"><h3>Training loss</h3><div class="plot"></div></figure>
<figure id="metric"><h3>${label} on the ${view.sweep.selection === 'validation' ? 'validation' : 'selection'} list</h3><div class="plot"></div></figure>
</div>`;
  const parallel = html`<h2>Every point</h2>
<p class="quiet">A line for each point, through its settings to its ${label}. Drag along an axis to keep only what passes there; press it to let all through.</p>
<figure id="parallel"><div class="scroll plot" role="region" aria-label="Parallel coordinates" tabindex="0"></div></figure>`;
  return html`<section class="js-only">
<h2>Learning curves</h2>
<p class="quiet">A line for each trial; vertical lines are rungs.${note}</p>
<p class="legend"><span>${label} <span class="ramp"></span> higher</span><span><span class="dash"></span>left early</span><span><span class="mark"></span>standing out: <span id="pins"></span></span></p>
${charts}
${view.keys.length > 0 && view.points.length > 1 ? parallel : null}
</section>`;
}

/** One's own Ctrl-C is no failure, and yet explains a gap. */
function describeStops({ incidents }: SweepView): string | null {
  const stops = [...new Set(incidents.filter(({ isStop }) => isStop).map(({ time }) => day(time)))];
  return stops.length === 0 ? null : `on request at ${stops.join(', ')}, its checkpoints saved`;
}

function renderMethod({ view, list, written }: Page): SafeHtml {
  const { sweep } = view;
  const { sha256, num_lines } = (list ?? {}) as { sha256?: string; num_lines?: number };
  const digest = sha256 === undefined ? '' : `; ${num_lines} videos, SHA-256 ${sha256.slice(0, 16)}...`;
  const facts: [string, string | null][] = [
    ['base', sweep.base],
    ['method', `${sweep.method}; seeds ${sweep.seeds?.join(', ') ?? '–'}`],
    [
      'bracket',
      sweep.bracket === null ? 'none' : `rungs at ${sweep.bracket.rungs.join(', ')}; keep ${sweep.bracket.keep}`,
    ],
    ['steps', String(sweep.steps ?? '–')],
    [
      'chosen on',
      sweep.selection_list === null
        ? null
        : `${sweep.selection_list}${digest}${sweep.selection === 'validation' ? ' (the validation list)' : ''}`,
    ],
    ['chosen by', `mean ${LABELS[sweep.metric]} over the seeds of a point`],
    ['evaluated once on', sweep.val_list],
    ['folder', `${basename(dirname(view.dir))}/${basename(view.dir)}`],
    ['stopped', describeStops(view)],
    ['page written', day(written)],
  ];
  return html`<section>
<h2>How it was done</h2>
${renderFacts(facts)}
</section>`;
}
