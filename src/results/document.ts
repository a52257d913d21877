/** What the pages of both reports are made in: one HTML file with its styles, data and script, that loads nothing. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { html, type SafeHtml } from '@remix-run/html-template';
import { PROJECT } from '../base/paths.ts';
import { MAX_ROWS } from './html.ts';

export interface Document {
  title: string;
  parts: (SafeHtml | null)[];
  /** What the script finds in `#data`. */
  data: unknown;
  /** report-page/build.ts */
  script: string;
}

/** Returns the whole page. `default-src 'none'`: the browser itself sees to it that nothing is loaded from anywhere. */
export function renderDocument({ title, parts, data, script }: Document): string {
  return String(html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>
${trust(readFileSync(STYLES, 'utf8'))}</style>
</head>
<body>
<main>
${parts}
</main>
<script type="application/json" id="data">${trust(toJson(data))}</script>
<script>
${trust(script)}</script>
</body>
</html>
`);
}

/** Our own scripts, styles and data go into the page as they are. */
const trust = (text: string): SafeHtml => html.raw`${text}`;

const STYLES = join(PROJECT, 'src', 'results', 'report-page', 'page.css');

/** JSON for a script element: no `<` can end it. */
const toJson = (value: unknown): string => JSON.stringify(value).replaceAll('<', '\\u003c');

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
