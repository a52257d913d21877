/** The part of the report's page that says what made the difference, as HTML. */

import { html, type SafeHtml } from '@remix-run/html-template';
import { plural } from '../base/words.ts';
import type { SweepView } from '../sweep/folder.ts';
import { type Effect, type Effects, findEffects } from './effects.ts';
import { LABELS } from './html.ts';

/** Below this chance an effect is called clear: one in twenty keys without any effect looks so, too. */
const CLEAR = 0.05;

export function renderEffects(view: SweepView): SafeHtml {
  const found = findEffects(view.points, view.keys, view.sweep.metric);
  if (found === undefined)
    return html`<p class="quiet">The points are too few to tell what their settings did: three more than settings are needed.</p>`;
  const label = LABELS[view.sweep.metric];
  return html`<p>${describeClear(found, label)}</p>
<p class="quiet">Mean ${label} with a setting, the other keys being equal, ± half of its 95 % interval; from
  ${plural(found.numPoints, 'point')} at step ${found.step}, where most were measured.</p>
<div class="effects">
${found.effects.map((effect) => renderEffect(effect, findRange(found)))}
</div>
<details><summary>How this is computed</summary>
<p class="quiet">An analysis of variance with main effects: ${label} of a point = mean + one amount for the setting of each key +
  rest, by least squares over the points. So keys that happened to vary together are told apart, and what two keys do only
  together is in the rest. Intervals are Student's t of the rest. A key's share is the part of the variance between
  points that the other keys cannot explain, and it is clear where the F test of that part gives a chance below
  ${100 * CLEAR} %. Numbers with many values are cut into three groups of equal size.</p></details>`;
}

const points = (value: number): string => (100 * value).toFixed(1);

function describeClear({ effects }: Effects, label: string): SafeHtml {
  const clear = effects.filter(({ p }) => p < CLEAR);
  const others = effects.filter(({ p }) => p >= CLEAR).map(({ key }) => html`<code>${key}</code>`);
  const told = clear.map(
    ({ key, best, worst, difference, half }) =>
      html`<strong><code>${key}</code></strong>: ${best} instead of ${worst} is worth ${points(difference)} ± ${points(half)} points of ${label}`,
  );
  if (told.length === 0) return html`No key made a difference that stands out from chance.`;
  const rest = others.length === 0 ? null : html` No clear effect: ${list(others, ', ')}.`;
  return html`${list(told, '; ')}.${rest}`;
}

const list = (items: SafeHtml[], between: string): (SafeHtml | string)[] =>
  items.flatMap((item, index) => (index === 0 ? [item] : [between, item]));

/** All keys are drawn on one scale. */
function findRange({ effects }: Effects): { low: number; high: number } {
  const levels = effects.flatMap((effect) => effect.levels);
  const low = Math.max(0, Math.min(...levels.map(({ mean, half }) => mean - half)));
  const high = Math.min(1, Math.max(...levels.map(({ mean, half }) => mean + half)));
  return { low, high: high > low ? high : low + 1e-9 };
}

function renderEffect({ key, levels, share, p }: Effect, range: { low: number; high: number }): SafeHtml {
  const place = (value: number): number =>
    100 * Math.min(1, Math.max(0, (value - range.low) / (range.high - range.low)));
  const rows = levels.map(({ label, count, mean, half }) => {
    const [from, to] = [place(mean - half), place(mean + half)];
    const bar = html`<i style="left:${from.toFixed(1)}%;width:${(to - from).toFixed(1)}%"></i><b style="left:${place(mean).toFixed(1)}%"></b>`;
    return html`<dt>${label} <small>${plural(count, 'point')}</small></dt><dd><span class="range">${bar}</span><span>${points(mean)} ± ${points(half)} %</span></dd>`;
  });
  const chance = p < 0.001 ? 'chance below 0.1 %' : `chance ${(100 * p).toFixed(1)} %`;
  const verdict = p < CLEAR ? 'clear' : 'not clear';
  return html`<div class="effect"><h3><code>${key}</code> <small>${verdict} (${chance}); ${(100 * share).toFixed(0)} % of the variance</small></h3>
<dl>${rows}</dl></div>`;
}
