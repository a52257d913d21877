/** cohort.json: read and checked as a whole, before anything starts. A plain run is a cohort whose only trial is `main`. */

import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { explainReadError, showPath, UserError } from '../base/errors.ts';
import { readStoredConfig } from '../config/migrate.ts';
import { type Config, resolvedSchema } from '../config/schema.ts';
import { FORMAT, readFormat } from '../config/stored-format.ts';
import type { CohortFile, Trial } from './cohort-types.ts';
import { explainApart } from './sharing.ts';

const trialSchema = z.strictObject({
  name: z.string().regex(/^[A-Za-z0-9_-]+$/, 'names files: letters, digits, _ and - only'),
  point: z.string().min(1),
  params: z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()])),
  seed: z.int(),
  settings: resolvedSchema,
});

const cohortSchema = z.strictObject({
  format: z.literal(FORMAT),
  name: z.string().min(1),
  metric: z.enum(['top1', 'top5', 'map']),
  bracket: z.strictObject({ rungs: z.array(z.int().min(1)).min(1), keep: z.number().gt(0).max(1) }).nullable(),
  trials: z.array(trialSchema).min(1),
});

/** The cohort that `train --config` runs. */
export function plainCohort(config: Config): CohortFile {
  const main: Trial = { name: 'main', point: 'main', params: {}, seed: config.train.seed, settings: config };
  const metric = config.data.labels === 'multi' ? 'map' : 'top1';
  return { format: FORMAT, name: 'main', metric, bracket: null, trials: [main] };
}

/** config.json: what a resumed run is held against. */
export type RunRecord = { format: number } & (
  | Config
  | (Pick<CohortFile, 'metric' | 'bracket'> & { trials: Record<string, Config> })
);

/** What the run folder keeps as config.json. */
export function recordCohort(cohort: CohortFile): RunRecord {
  const { metric, bracket, trials } = cohort;
  if (isPlain(cohort)) return { format: FORMAT, ...firstSettings(cohort) };
  const settings = Object.fromEntries(trials.map((trial) => [trial.name, trial.settings]));
  return { format: FORMAT, metric, bracket, trials: settings };
}

export function isPlain({ bracket, trials }: CohortFile): boolean {
  return bracket === null && trials.length === 1 && trials[0]?.name === 'main';
}

/** The settings that count for all: steps, data, evaluation, run and launch are the same in every trial. */
export function firstSettings({ trials: [first] }: CohortFile): Config {
  if (first === undefined) throw new Error('a cohort has trials');
  return first.settings;
}

/** Throws UserError with every problem of the file. */
export function readCohort(file: string): CohortFile {
  const parsed = cohortSchema.safeParse(migrateTrials(parseJson(file), file));
  if (!parsed.success) {
    const where = (path: PropertyKey[]): string => (path.length === 0 ? '' : `${path.map(String).join('.')}: `);
    throw new UserError(parsed.error.issues.map((one) => `${showPath(file)}  ${where(one.path)}${one.message}.`));
  }
  const cohort: CohortFile = parsed.data;
  const problems = [...checkNames(cohort), ...checkBracket(cohort), ...explainApart(cohort.trials)];
  if (problems.length > 0) throw new UserError(problems.map((problem) => `${showPath(file)}  ${problem}`));
  return cohort;
}

/** An older version's trials, complete; what is no cohort at all is told by the schema. */
function migrateTrials(stored: unknown, file: string): unknown {
  const format = readFormat(stored, showPath(file));
  const { trials } = (stored ?? {}) as { trials?: unknown };
  if (!Array.isArray(trials)) return stored;
  const migrate = (trial: unknown): unknown => {
    const { name, settings } = (trial ?? {}) as { name?: unknown; settings?: unknown };
    if (settings === undefined) return trial;
    const where = `${showPath(file)}  trial ${String(name)}:`;
    return { ...(trial as object), settings: readStoredConfig(settings, { file: where, format }) };
  };
  return { ...(stored as object), format: FORMAT, trials: trials.map(migrate) };
}

function parseJson(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new UserError(`--cohort  ${explainReadError(error, file, 'a cohort.json')}`);
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${showPath(file)}  is not valid JSON: ${(error as Error).message}.`);
  }
}

function checkNames({ trials }: CohortFile): string[] {
  const names = trials.map(({ name }) => name);
  const twice = [...new Set(names.filter((name, index) => names.indexOf(name) !== index))];
  return twice.map((name) => `has two trials ${name}. Names must be unique.`);
}

function checkBracket(cohort: CohortFile): string[] {
  const { bracket } = cohort;
  if (bracket === null) return [];
  const { data, train } = firstSettings(cohort);
  const problems = [];
  const { rungs } = bracket;
  if (rungs.some((rung, index) => index > 0 && rung <= (rungs[index - 1] ?? 0)))
    problems.push(`bracket.rungs: found ${rungs.join(', ')}. Each must be above the one before.`);
  const late = rungs.filter((rung) => rung >= train.steps);
  if (late.length > 0)
    problems.push(`bracket.rungs: found ${late.join(', ')}; train.steps is ${train.steps}. Rungs lie before the end.`);
  if (data.val_list === null) problems.push('bracket: needs data.val_list, the list that rungs are decided on.');
  return problems;
}
