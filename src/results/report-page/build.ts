/** How the script of a page becomes one text that a browser runs: `make setup` makes it, or the report itself. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BuildOptions } from 'esbuild';
import { BUNDLE, PROJECT } from '../../base/paths.ts';

/** Each has a script of its name in this folder. */
export const PAGES = ['sweep', 'run'] as const;
export type PageName = (typeof PAGES)[number];

/** Under this name it lies in the bundle. */
export const nameScript = (page: PageName): string => `${page}-page.js`;

export const describeBuild = (page: PageName) =>
  ({
    entryPoints: [join(PROJECT, 'src', 'results', 'report-page', `${page}.ts`)],
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
  }) as const satisfies BuildOptions;

/** Returns the script. In a checkout under development no bundle may be there, or an older one: it is made anew. */
export async function readPageScript(page: PageName): Promise<string> {
  if (BUNDLE !== null) return readFileSync(join(BUNDLE, nameScript(page)), 'utf8');
  const known = made.get(page) ?? makeScript(page);
  made.set(page, known);
  return known;
}

const made = new Map<PageName, Promise<string>>();

async function makeScript(page: PageName): Promise<string> {
  const { build } = await import('esbuild');
  const { outputFiles } = await build({ ...describeBuild(page), write: false });
  return outputFiles[0]?.text ?? '';
}
