/** How the script of the server's page becomes one text that a browser runs: `make setup` makes it, or the server itself. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BuildOptions } from 'esbuild';
import { BUNDLE, PROJECT } from '../../../base/paths.ts';

export const SERVER_SCRIPT = 'server-page.js';

export const SERVER_BUILD = {
  entryPoints: [join(PROJECT, 'src', 'inference', 'server', 'page', 'script.ts')],
  bundle: true,
  minify: true,
  format: 'iife',
  platform: 'browser',
  target: 'es2022',
  legalComments: 'none',
  logLevel: 'warning',
} as const satisfies BuildOptions;

/** Returns the script. In a checkout under development no bundle may be there, or an older one: it is made anew. */
export async function readServerScript(): Promise<string> {
  if (BUNDLE !== null) return readFileSync(join(BUNDLE, SERVER_SCRIPT), 'utf8');
  const { build } = await import('esbuild');
  const { outputFiles } = await build({ ...SERVER_BUILD, write: false });
  return outputFiles[0]?.text ?? '';
}
