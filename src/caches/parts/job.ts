/** A job in parts on the disk: a folder with what is to be done, a journal of attempts, and a folder for each part. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { writeWhole } from '../../base/files.ts';
import { explainChanges, listChanges } from '../../config/effects.ts';
import { readStoredConfig } from '../../config/migrate.ts';
import type { Config } from '../../config/schema.ts';
import { FORMAT, readFormat } from '../../config/stored-format.ts';
import type { Which } from '../../data/checks.ts';
import type { ProbeRules } from '../../data/probe/cache.ts';
import type { OpenRequest } from '../../runtime/session.ts';

/** What is done in parts. */
export type Work = FeaturesWork | ClipsWork | ProbesWork;

export interface FeaturesWork {
  kind: 'features';
  config: Config;
  lists: OpenRequest['lists'];
  /** SHA-256 of the user's lists. */
  hashes?: Record<Which, string | null>;
}

export interface ClipsWork {
  kind: 'clips';
  config: Config;
  lists: OpenRequest['lists'];
  output: string;
}

/** The clips of each list are in a file of the job. */
export interface ProbesWork {
  kind: 'probes';
  lists: { file: string; rules: ProbeRules }[];
}

export interface PartsJob {
  format: number;
  parts: number;
  work: Work;
}

/** What a part says of itself while it runs, and at its end. */
export interface PartStatus {
  attempt: number;
  /** Only at its end. */
  result: object | null;
  num_done: number;
  num_total: number;
  /** Of them, those that a kill cannot take. */
  num_saved: number;
  clips_per_second: number | null;
  waited_seconds: Record<string, number>;
}

export const nameParts = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `p${String(index + 1).padStart(4, '0')}`);

/** Where the job of an output lies: on the same disk, so that what parts have made is moved and not copied. */
export const partsOf = (output: string): string => join(output, 'parts');

/** Where a job keeps the lists that its parts read. */
export const listsOf = (dir: string): string => join(dir, 'lists');

/** Returns what a folder holds, undefined where that is nothing. Throws UserError for what a later version has begun. */
export function readJob(dir: string): PartsJob | undefined {
  const file = join(dir, 'job.json');
  if (!existsSync(file)) return undefined;
  const job = JSON.parse(readFileSync(file, 'utf8')) as PartsJob;
  readFormat(job, file);
  return job;
}

/** Begins a job, or takes it up: its parts stay as many as they were. */
export function writeJob(dir: string, parts: number, work: Work): void {
  writeWhole(join(dir, 'job.json'), `${JSON.stringify({ format: FORMAT, parts, work } satisfies PartsJob)}\n`);
}

/** Throws UserError where a job was begun in another number of parts, or, with `undefined`, in any. */
export function refuseOtherCount(dir: string, parts: number | undefined): void {
  const begun = readJob(dir)?.parts;
  if (begun === undefined || begun === parts) return;
  throw new UserError(
    `${showPath(dir)}  holds the same work, begun in ${begun} parts. \`--parts ${begun}\` goes on with it; remove the folder to begin anew.`,
  );
}

/** What the files of a job follow from; any other key may change on the way. */
const KEYS = {
  features: [
    /^features\./,
    /^model\.(backbone\.(?!freeze$|train_blocks$)|decoder\.(kind|num_layers)$|temporal\.cross_attention$)/,
    /^data\.(train_list|val_list|root|train_root|val_root|reader)$/,
    /^data\.(sampling|stride|num_frames|short_clips|size|mean|std|seed|augment|interpolation|mirror)$/,
    /^(eval\.(spatial|temporal)_views|train\.precision|launch\.device)$/,
  ],
  clips: [/^prepare\./],
};

/** What a command asks for of a job that may have been begun. */
export type Asked = Pick<FeaturesWork, 'kind' | 'config' | 'hashes'> | Pick<ClipsWork, 'kind' | 'config'>;

/** Throws UserError with all that a job was begun with in other values: its parts would make nothing whole. */
export function refuseOtherSettings(dir: string, asked: Asked): void {
  const job = readJob(dir);
  if (job === undefined || job.work.kind !== asked.kind) return;
  const { work: begun, format } = job;
  const before = readStoredConfig(begun.config, { file: join(dir, 'job.json'), format });
  const changes = listChanges(before, asked.config, '').filter(({ key }) =>
    KEYS[asked.kind].some((one) => one.test(key)),
  );
  const parts = `the parts in ${showPath(dir)} were begun`;
  const problems = explainChanges(changes, `${parts} with`);
  if (changes.length === 0)
    problems.push(...listChangedLists(begun, asked).map((file) => `${file}  has changed since ${parts}.`));
  if (problems.length === 0) return;
  throw new UserError([...problems, 'Put back what they were begun with, or remove that folder to begin anew.']);
}

function listChangedLists(begun: Asked, asked: Asked): (string | null)[] {
  const [before, now] = [begun, asked].map((work) => ('hashes' in work ? work.hashes : undefined));
  if (before === undefined || now === undefined) return [];
  const changed = (['train', 'val'] as const).filter((which) => before[which] !== now[which]);
  return changed.map((which) => asked.config.data[`${which}_list`]);
}

export function readStatus(dir: string): PartStatus | undefined {
  try {
    return JSON.parse(readFileSync(join(dir, 'part.json'), 'utf8')) as PartStatus;
  } catch {
    return undefined; // not there yet, or not to be read just now
  }
}
