/** Where the parts of the checkout lie: the one file that finds them from its own place. */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const PROJECT = fileURLToPath(new URL('..', import.meta.url));

/** The program itself, as a scheduler starts it. */
export const PROGRAM = join(PROJECT, 'scripts', 'coldframe');

export const PYTHON_FOLDER = join(PROJECT, 'py');

/** The build for browsers, which the package does not export: found beside what it does. */
export function readLibrary(name: string, file: string): string {
  const entry = createRequire(import.meta.url).resolve(name);
  const folder = entry.slice(0, entry.lastIndexOf(join('node_modules', name)) + join('node_modules', name).length);
  return readFileSync(join(folder, 'dist', file), 'utf8').replaceAll('</script', '<\\/script');
}
