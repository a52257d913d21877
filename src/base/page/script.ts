/** How the script of a page becomes one text that a browser runs: `make setup` makes it, or the program itself. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BuildOptions } from 'esbuild';
import { BUNDLE, PROJECT } from '../paths.ts';

export interface PageScript {
  /** Under this name it lies in the bundle. */
  name: string;
  /** Where it begins, below src/. */
  entry: string;
  /** The licences of what it holds. */
  banner?: string;
}

export const describeBuild = ({ entry, banner = '' }: PageScript) =>
  ({
    entryPoints: [join(PROJECT, 'src', entry)],
    bundle: true,
    minify: true,
    format: 'iife',
    platform: 'browser', // so that no text in it can end its script element
    target: 'es2022',
    legalComments: 'none',
    banner: { js: banner },
    logLevel: 'warning',
  }) as const satisfies BuildOptions;

/** Returns the script. In a checkout under development no bundle may be there, or an older one: it is made anew. */
export async function readScript(script: PageScript): Promise<string> {
  if (BUNDLE !== null) return readFileSync(join(BUNDLE, script.name), 'utf8');
  const known = made.get(script.name) ?? makeScript(script);
  made.set(script.name, known);
  return known;
}

const made = new Map<string, Promise<string>>();

async function makeScript(script: PageScript): Promise<string> {
  const { build } = await import('esbuild');
  const { outputFiles } = await build({ ...describeBuild(script), write: false });
  return outputFiles[0]?.text ?? '';
}
