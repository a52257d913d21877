/** What every page is made in: one HTML file with its styles, data and script, that loads nothing. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { html, type SafeHtml } from '@remix-run/html-template';
import { PROJECT } from '../paths.ts';

export interface Document {
  title: string;
  /** The page's own styles, as a file below src/. They follow those that all pages share. */
  styles: string;
  body: SafeHtml | (SafeHtml | null)[];
  /** What the script finds in `#data`. */
  data?: unknown;
  /** What it does (script.ts); a page without one needs none. */
  script?: string;
  /** What the browser lets it do besides, such as `connect-src 'self'`. */
  allowed?: string[];
}

/** Returns the whole page. `default-src 'none'`: the browser itself sees to it that nothing is loaded from anywhere. */
export function renderDocument({ title, styles, body, data, script, allowed = [] }: Document): string {
  const scripts = script === undefined ? [] : ["script-src 'unsafe-inline'"];
  const policy = ["default-src 'none'", "style-src 'unsafe-inline'", 'img-src data:', ...scripts, ...allowed].join(
    '; ',
  );
  return String(html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${trust(policy)}">
<link rel="icon" href="data:,">
<title>${title}</title>
<style>
${readStyles('base/page/style.css')}${readStyles(styles)}</style>
</head>
<body>
${body}
${data === undefined ? null : html`<script type="application/json" id="data">${trust(toJson(data))}</script>`}
${script === undefined ? null : html`<script>${trust(script)}</script>`}
</body>
</html>
`);
}

/** Our own scripts, styles and data go into the page as they are. */
const trust = (text: string): SafeHtml => html.raw`${text}`;

const readStyles = (file: string): SafeHtml => trust(readFileSync(join(PROJECT, 'src', file), 'utf8'));

/** JSON for a script element: no `<` can end it. */
const toJson = (value: unknown): string => JSON.stringify(value).replaceAll('<', '\\u003c');
