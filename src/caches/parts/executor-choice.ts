/** `--executor`: where the parts of a job run. A word, or a file with the section that sweeps have: one description of a
 * cluster serves both. */

import { existsSync } from 'node:fs';
import { showPath, UserError } from '../../base/errors.ts';
import { nest } from '../../base/objects.ts';
import { findDevices } from '../../base/process/devices.ts';
import { checkKeys, collectKeys, describeAllowed, formatProblem, show } from '../../config/keys.ts';
import { section } from '../../config/schema.ts';
import { readSource } from '../../config/yaml.ts';
import type { SweepExecutor } from '../../executors/executor.ts';
import { executorSchema, readExecutor } from '../../executors/schema.ts';
import type { InParts } from './run-parts.ts';

const KINDS = ['local', 'slurm', 'ray'];
const ALLOWED = `${KINDS.join(', ')}, or a file with the section executor of a sweep`;
const SECTION = section({ executor: executorSchema });
const KEYS = collectKeys(SECTION.unwrap());

export const chooseInParts = (parts: number, executor: string | undefined, device: string): InParts => ({
  parts,
  executor: chooseExecutor(executor, parts, device),
});

/** Returns where so many parts run. Without `slots` all run at once; on this machine as many as it has GPUs, else one after
 * the other: each uses all cores, and numbers of a CPU hang on how many threads compute them. */
export function chooseExecutor(given: string | undefined, numParts: number, device: string): SweepExecutor {
  if (given !== undefined && !KINDS.includes(given) && !existsSync(given))
    throw new UserError(`--executor  there is no file ${showPath(given)}. Allowed: ${ALLOWED}.`);
  const values = given === undefined || KINDS.includes(given) ? new Map() : readKeys(given);
  if (given !== undefined && KINDS.includes(given)) values.set('executor.kind', given);
  const settings = readExecutor(SECTION.parse(nest(values)).executor);
  if (values.has('executor.slots')) return settings;
  const here = device === 'cpu' ? 1 : Math.max(1, findDevices().length);
  return { ...settings, slots: settings.kind === 'local' ? Math.min(numParts, here) : numParts };
}

/** The section of a sweep file, or of one that holds nothing else. */
function readKeys(file: string): Map<string, unknown> {
  const { entries, problems } = readSource(file, [], process.env);
  const own = new Map([...entries].filter(([key]) => key === 'executor' || key.startsWith('executor.')));
  if (own.size === 0 && problems.length === 0)
    problems.push(`${showPath(file)}  has no section executor. Allowed for --executor: ${ALLOWED}.`);
  problems.push(...checkKeys(own, KEYS));
  const values = new Map<string, unknown>();
  for (const [key, entry] of own) {
    const schema = KEYS.keys.get(key);
    if (schema === undefined) continue;
    problems.push(...entry.problems);
    if (schema.safeParse(entry.value).success) values.set(key, entry.value);
    else
      problems.push(
        formatProblem(entry.where, key, `found ${show(entry.value)}. Allowed: ${describeAllowed(key, KEYS)}.`),
      );
  }
  if (problems.length > 0) throw new UserError([...new Set(problems)]);
  return values;
}
