/** The table of classes in the page of `report`. */

import { html, type SafeHtml } from '@remix-run/html-template';
import { showInterval } from '../../base/intervals.ts';
import { percent } from '../html.ts';
import { type ClassRow, listClasses, type RunView } from './view.ts';

export function renderClasses(view: RunView): SafeHtml {
  const { is_multi: isMulti } = view.analysis;
  const columns: [string, boolean][] = [
    ...([
      ['class', false],
      ['videos', true],
      [isMulti ? 'found' : 'right', true],
      ['share', true],
      ['95 %', false],
    ] as const),
    ...(isMulti
      ? ([['average precision', true]] as const)
      : ([
          ['precision', true],
          ['most often taken for', false],
        ] as const)),
  ].map(([name, isNumber]) => [name, isNumber]);
  const head = columns.map(
    ([name, isNumber]) =>
      html`<th scope="col"${isNumber ? html` class="number"` : null}><button type="button">${name}</button></th>`,
  );
  const rows = listClasses(view).toSorted((a, b) => (a.share ?? 2) - (b.share ?? 2) || a.label - b.label);
  const share = isMulti
    ? 'Share: of its videos, those where it was found at its threshold.'
    : 'Share: of its videos, those that are right. Precision: of the videos that were taken for it, those that are it.';
  return html`<section>
<h2>Every class</h2>
<p class="quiet">The worst first. ${share}</p>
<div class="controls js-only"><input type="search" id="filter" placeholder="Filter the classes" aria-label="Filter the classes"><span id="count" class="quiet" aria-live="polite"></span></div>
<div class="scroll" id="classes" role="region" aria-label="Every class" tabindex="0"><table>
<thead><tr>${head}</tr></thead>
<tbody>
${rows.map((row) => renderClass(row, isMulti))}
</tbody></table></div>
</section>`;
}

function renderClass(row: ClassRow, isMulti: boolean): SafeHtml {
  const { name, share, interval, num_predicted: predicted, taken_for: taken, average_precision: average } = row;
  const cell = (value: number | string | null, shown: string | SafeHtml, kind = 'number'): SafeHtml =>
    html`<td class="${kind}" data-value="${value ?? ''}">${shown}</td>`;
  const precision = predicted ? row.num_correct / predicted : null;
  const range =
    interval === null
      ? null
      : html`<span class="range" aria-hidden="true"><i style="left:${at(interval.low)};width:${at(interval.high - interval.low)}"></i><b style="left:${at(share ?? 0)}"></b></span>`;
  const more = isMulti
    ? [cell(average, percent(average))]
    : [
        cell(precision, percent(precision)),
        cell(taken?.num_videos ?? '', taken === null ? '–' : `${taken.name} (${taken.num_videos})`, 'text'),
      ];
  return html`<tr data-text="${name.toLowerCase()}">${[
    cell(name, name, 'text'),
    cell(row.num_videos, String(row.num_videos)),
    cell(row.num_correct, String(row.num_correct)),
    cell(share, percent(share)),
    cell(interval?.low ?? null, html`${range}${interval === null ? '–' : showInterval(interval)}`, 'interval'),
    ...more,
  ]}</tr>
`;
}

const at = (share: number): string => `${(100 * share).toFixed(1)}%`;
