/** Whether a place can take a run, found out before anything is written or loaded. */

import { accessSync, constants, existsSync, readdirSync, statfsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { asUserError, showPath, UserError } from '../base/errors.ts';
import { formatBytes } from '../base/format.ts';
import { findDevices } from '../base/process/devices.ts';
import { plural } from '../base/words.ts';
import type { Config } from '../config/schema.ts';

/** What a run that was killed at its very start has left, or a scheduler has put there. */
const OURS =
  /^(lists|lock|runtime(-rank-\d+)?\.log|status\.json|cohort\.json|cohort\.log|checkpoints|evaluations|metrics)$/;
const NOBODYS = /^(\..*|lost\+found)$/;
const COPIES = 3; // of each trained number: the weight and Adam's two moments
const MAX_TOLD = 3;

/** Throws UserError where the folder cannot be made or written, or holds a user's own files. Nothing is written. */
export function checkPlace(dir: string): void {
  try {
    const there = findExisting(dir);
    if (!statSync(there).isDirectory()) throw new UserError(explainFile(dir, there));
    accessSync(there, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw asUserError(error);
  }
  refuseForeign(dir);
}

function explainFile(dir: string, file: string): string {
  const what = resolve(dir) === file ? 'is a file' : `lies below the file ${showPath(file)}`;
  return `${showPath(dir)}  ${what}, and a folder is needed. Name another place with --run-dir.`;
}

/** A run's files would lie among the user's own, and some have common names. */
export function refuseForeign(dir: string): void {
  if (!existsSync(dir)) return;
  const names = readdirSync(dir);
  const has = (name: string): boolean => names.includes(name);
  if (has('events.jsonl') || has('attempt.json') || (has('lists') && has('lock'))) return;
  const foreign = names.filter((name) => !OURS.test(name) && !NOBODYS.test(name)).sort();
  if (foreign.length === 0) return;
  const more = foreign.length > MAX_TOLD ? ', ...' : '';
  const told = foreign.slice(0, MAX_TOLD).join(', ');
  throw new UserError(
    `${showPath(dir)}  holds files that are no run's (${told}${more}). Name a new or empty folder with --run-dir.`,
  );
}

/** Throws UserError where an evaluation's files would lie among the user's own. A sweep has its own two beside them. */
export function refuseForeignResults(dir: string): void {
  if (!existsSync(dir)) return;
  if (!statSync(dir).isDirectory())
    throw new UserError(`${showPath(dir)}  is a file, and a folder is needed. Name another place with --output.`);
  const foreign = readdirSync(dir).filter(
    (name) =>
      !/^(.*\.)?(scores\.npz|per-class\.csv|confusion\.csv)$|^(result|attempt)\.json$|^cohort\.log$|^\./.test(name),
  );
  if (foreign.length === 0) return;
  const told = foreign.sort().slice(0, MAX_TOLD).join(', ');
  throw new UserError(
    `${showPath(dir)}  holds files that are no evaluation's (${told}). Name a new or empty folder with --output.`,
  );
}

/** Throws UserError where the disk has no room for one checkpoint of so many trained numbers. */
export function refuseSmallDisk(dir: string, numTrained: number, hasAverage: boolean): void {
  const bytes = 4 * numTrained * (COPIES + Number(hasAverage));
  const { bavail, bsize } = statfsSync(findExisting(dir));
  if (bavail * bsize >= bytes) return;
  throw new UserError(
    `${showPath(dir)}  the disk has ${formatBytes(bavail * bsize)} free, and one checkpoint takes ${formatBytes(bytes)}. ` +
      'Free some room there, or name another place with --run-dir.',
  );
}

/** Returns why this machine cannot take its part of a run, which asks for more GPUs than it shows; a CPU bears any number. */
export function explainLack({ train, launch }: Config, there = findDevices()): string | undefined {
  const { device, devices, nodes } = launch;
  if (device === 'cpu' || there.length === 0 || devices <= there.length) return undefined;
  const parts = nodes * train.micro_batches;
  const fitting = there.map((_, index) => index + 1).filter((number) => train.batch_size % (number * parts) === 0);
  const visible = process.env.CUDA_VISIBLE_DEVICES;
  const shown = visible === undefined ? '' : ` (CUDA_VISIBLE_DEVICES=${visible})`;
  const found = `found ${devices}, and this machine shows ${plural(there.length, 'GPU')}${shown}`;
  return `launch.devices  ${found}. What fits: ${fitting.join(', ')}.`;
}

/** The folder itself, or what there is of the way to it. */
function findExisting(dir: string): string {
  let at = resolve(dir);
  while (!existsSync(at)) at = dirname(at);
  return at;
}
