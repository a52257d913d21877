/** What the pages of both reports are made of: tiles, facts, tables. */

import { html, type SafeHtml } from '@remix-run/html-template';
import { renderDocument } from '../base/page/document.ts';
import { MAX_ROWS } from './html.ts';

export interface Report {
  title: string;
  parts: (SafeHtml | null)[];
  data: unknown;
  /** report-page/build.ts */
  script: string;
}

export const renderReport = ({ parts, ...page }: Report): string =>
  renderDocument({
    ...page,
    styles: 'results/report-page/page.css',
    body: html`<main>
${parts}
</main>`,
  });

/** One number that counts, with its name and what is to be known of it. */
export const renderTile = (name: string, value: string | SafeHtml, about: string): SafeHtml =>
  html`<div class="tile"><dt>${name}</dt><dd>${value}<p>${about}</p></dd></div>`;

/** Names and what stands for each; one without a value is left out. */
export function renderFacts(facts: [string, string | SafeHtml | null | undefined][]): SafeHtml {
  const known = facts.filter(([, value]) => value != null && value !== '');
  return html`<dl class="facts">${known.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

/** A table that scrolls by itself; `textColumn` is the one whose lines may break. */
export function renderTable(head: string[], rows: string[][], label: string, textColumn: number): SafeHtml {
  const cells = (row: string[]): SafeHtml[] =>
    row.map((value, index) => html`<td${index === textColumn ? html` class="text"` : null}>${value}</td>`);
  return html`<div class="scroll" role="region" aria-label="${label}" tabindex="0"><table>
<thead><tr>${head.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows.slice(0, MAX_ROWS).map((row) => html`<tr>${cells(row)}</tr>`)}</tbody></table></div>
${rows.length > MAX_ROWS ? html`<p class="quiet">The first ${MAX_ROWS} of ${rows.length}.</p>` : null}`;
}
