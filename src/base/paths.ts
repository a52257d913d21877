/** Where the parts of the checkout lie: the one file that finds them from its own place. */

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The checkout: the folder of package.json above this file, which may also run from the bundle in dist/. */
const here = dirname(fileURLToPath(import.meta.url));
export const PROJECT = findProject(here);

/** The folder of the bundle, when it is what runs. */
export const BUNDLE = here === join(PROJECT, 'dist') ? here : null;

function findProject(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : findProject(dirname(folder));
}

/** The program itself, as a scheduler starts it. */
export const PROGRAM = join(PROJECT, 'scripts', 'coldframe');
/** What starts a command on several machines of a Ray cluster. */
export const RAY_MACHINES = join(PROJECT, 'scripts', 'ray_machines.py');

export const PYTHON_FOLDER = join(PROJECT, 'py');
