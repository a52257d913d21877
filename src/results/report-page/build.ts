/** How the script of the report's page becomes one text that a browser runs: `make setup` makes it, or the report itself. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BuildOptions } from 'esbuild';
import { BUNDLE, PROJECT } from '../../base/paths.ts';

export const PAGE_SCRIPT = 'report-page.js';

export const PAGE_OPTIONS = {
  entryPoints: [join(PROJECT, 'src', 'results', 'report-page', 'script.ts')],
  bundle: true,
  minify: true,
  format: 'iife',
  platform: 'browser', // so that no text in it can end its script element
  target: 'es2022',
  legalComments: 'none',
  banner: {
    js: '/* With d3 (Copyright Mike Bostock) and Observable Plot (Copyright Observable, Inc.), both under the ISC License. */',
  },
  logLevel: 'warning',
} as const satisfies BuildOptions;

/** Returns the script. In a checkout under development no bundle may be there, or an older one: it is made anew. */
export async function readPageScript(): Promise<string> {
  if (BUNDLE !== null) return readFileSync(join(BUNDLE, PAGE_SCRIPT), 'utf8');
  made ??= makeScript();
  return made;
}

let made: Promise<string> | undefined;

async function makeScript(): Promise<string> {
  const { build } = await import('esbuild');
  const { outputFiles } = await build({ ...PAGE_OPTIONS, write: false });
  return outputFiles[0]?.text ?? '';
}
