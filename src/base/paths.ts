/** Where the parts of the checkout lie: the one file that finds them from its own place. */

import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The checkout: the folder of package.json above this file, which may also run from the bundle in dist/. */
export const PROJECT = findProject(dirname(fileURLToPath(import.meta.url)));

function findProject(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : findProject(dirname(folder));
}

/** The program itself, as a scheduler starts it. */
export const PROGRAM = join(PROJECT, 'scripts', 'coldframe');

export const PYTHON_FOLDER = join(PROJECT, 'py');

/** The build for browsers, which the package does not export: found beside what it does. */
export function readLibrary(name: string, file: string): string {
  const entry = createRequire(join(PROJECT, 'package.json')).resolve(name);
  const folder = entry.slice(0, entry.lastIndexOf(join('node_modules', name)) + join('node_modules', name).length);
  return readFileSync(join(folder, 'dist', file), 'utf8').replaceAll('</script', '<\\/script');
}
