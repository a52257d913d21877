/** What may change in a sweep that has begun: what is added to it, and what would make its trials others. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { plural } from '../base/words.ts';
import { type Change, describeChanges, explainChanges, findChanges, isFree, listChanges } from '../config/effects.ts';
import { show } from '../config/keys.ts';
import { readStoredConfig, readStoredDraft } from '../config/migrate.ts';
import type { Params } from '../config/schema.ts';
import { readFormat } from '../config/stored-format.ts';
import { parseLines } from '../executors/journal-file.ts';
import { hashFile, isSameFile } from '../run/changes.ts';
import { describeParams, makeTrials, planPoints } from './definition/file.ts';
import { sweepSchema } from './definition/schema.ts';
import { identifyParams, isActive } from './definition/space.ts';
import type { Point, SpaceKey, Sweep } from './definition/types.ts';
import { type Entry, emptyState, reduce, type SweepState } from './journal.ts';

export interface SweepChanges {
  /** What keeps the folder's sweep from going on as this one; `why` says what could be otherwise. */
  refused: Change[];
  why: string[];
  /** What is added: points, seeds, another order of the same results. */
  extended: Change[];
}

/** Returns the sweep that a folder was planned for, complete; undefined where there is none. */
export function readStoredSweep(dir: string): Sweep | undefined {
  const file = join(dir, 'sweep.json');
  if (!existsSync(file)) return undefined;
  let stored: Partial<Sweep>;
  try {
    stored = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new UserError(`${showPath(file)}  is not valid JSON: ${(error as Error).message}. Choose another --run-dir.`);
  }
  const where = { file: showPath(file), format: readFormat(stored, showPath(file)) };
  const { executor: _, bracket: __, ...defaults } = sweepSchema.parse({ base: '?' });
  const config = readStoredConfig(stored.config, where);
  const draft = readStoredDraft(stored.draft, where);
  return { ...defaults, seeds: [config.train.seed], bracket: null, space: [], ...stored, config, draft } as Sweep;
}

/** Returns what lies in a folder against what is to run there. */
export function compareSweeps(dir: string, after: Sweep): SweepChanges {
  const before = readStoredSweep(dir);
  const state = readState(dir);
  const changes: SweepChanges = { refused: [], why: [], extended: [] };
  if (before === undefined || state.trials.size === 0) return changes; // nothing is computed yet
  comparePoints(before, after, state, changes);
  compareResults(before, after, changes);
  changes.refused.push(...compareBases(dir, before, after, state));
  return changes;
}

/** Returns what the journal of a folder says; without one, of a sweep that has not begun. */
export function readState(dir: string): SweepState {
  const state = emptyState();
  const file = join(dir, 'journal.jsonl');
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  for (const entry of parseLines<Entry>(text.slice(0, text.lastIndexOf('\n') + 1), showPath(file)))
    reduce(state, entry);
  return state;
}

/** Returns the points that are planned, in order, each with the seeds that it has. */
export function listKnown(state: SweepState): (Point & { seeds: number[] })[] {
  const known = new Map<string, Point & { seeds: number[] }>();
  for (const { point: name, params, seed } of state.trials.values()) {
    const one = known.get(name) ?? { name, params, seeds: [] };
    one.seeds.push(seed);
    known.set(name, one);
  }
  return [...known.values()];
}

/** Points may be added in any way that has those that are there. */
function comparePoints(before: Sweep, after: Sweep, state: SweepState, { refused, why, extended }: SweepChanges): void {
  const changes = [
    ...(['method', 'trials', 'seed'] as const).flatMap((key) => listChanges(before[key], after[key], key)),
    ...listChanges(before.tpe, after.tpe, 'tpe'),
    ...listChanges(describeSpace(before), describeSpace(after), 'space').map(unquote),
  ];
  if (changes.length === 0) return;
  const known = listKnown(state);
  const lost = findLost(after, known);
  const [first] = lost;
  const isTooFew = after.method === 'tpe' && known.length > (after.trials ?? 0);
  if (first === undefined && !isTooFew) return void extended.push(...changes);
  refused.push(...changes);
  if (first === undefined)
    why.push(`${plural(known.length, 'point')} were drawn already. Give as many trials or more.`);
  else
    why.push(
      `${lost.length} of ${plural(known.length, 'point')} would be none of this sweep, such as ${first.name} ` +
        `(${describeParams(first.params)}). Trials and values may be added where every point that was drawn stays.`,
    );
}

function describeSpace({ space }: Sweep): Record<string, string> {
  return Object.fromEntries(space.map((part) => [part.key, describeKey(part)]));
}

function describeKey({ values, range, when }: SpaceKey): string {
  const { low, high, log, step } = range ?? {};
  const steps = log ? ', log' : step ? ` by ${step}` : '';
  const what = values === null ? `${low} to ${high}${steps}` : `one of ${values.map(show).join(', ')}`;
  const conditions = Object.entries(when).map(([key, wanted]) => `${key} is ${wanted.map(show).join(' or ')}`);
  return conditions.length === 0 ? what : `${what} where ${conditions.join(' and ')}`;
}

const unquote = ({ key, before, after }: Change): Change => {
  const plain = (text: string): string => (text === 'absent' ? 'not varied' : JSON.parse(text));
  return { key, before: plain(before), after: plain(after) };
};

function findLost(sweep: Sweep, known: Point[]): Point[] {
  if (sweep.method === 'tpe') return known.filter(({ params }) => !isPossible(sweep.space, params));
  const planned = new Set(planPoints(sweep).map(({ params }) => identifyParams(params)));
  return known.filter(({ params }) => !planned.has(identifyParams(params)));
}

function isPossible(space: SpaceKey[], params: Params): boolean {
  const fits = ({ key, values, range }: SpaceKey): boolean => {
    const value = params[key];
    if (values !== null) return values.includes(value ?? null);
    return range !== null && typeof value === 'number' && value >= range.low && value <= range.high;
  };
  const isKnown = Object.keys(params).every((key) => space.some((part) => part.key === key));
  return isKnown && space.every((part) => (isActive(part, params) ? fits(part) : !(part.key in params)));
}

/** Rungs have ended trials by the metric, and by the mean over the seeds that were there: then neither may change. */
function compareResults(before: Sweep, after: Sweep, { refused, why, extended }: SweepChanges): void {
  const hasRungs = before.bracket !== null || after.bracket !== null;
  const seeds = listChanges(before.seeds, after.seeds, 'seeds');
  const keepsSeeds = before.seeds.every((seed) => after.seeds.includes(seed));
  const objective = listChanges(before.objective, after.objective, 'objective');
  (hasRungs || !keepsSeeds ? refused : extended).push(...seeds);
  (hasRungs ? refused : extended).push(...objective);
  if (seeds.length > 0 && !keepsSeeds) why.push('Seeds may be added; the ones that were trained stay.');
  if (hasRungs && keepsSeeds && seeds.length + objective.length > 0)
    why.push('Rungs of the bracket have ended trials by the objective and these seeds: both stay as they are.');
  refused.push(...listChanges(before.bracket, after.bracket, 'bracket'));
  refused.push(...listChanges(before.selection, after.selection, 'selection'));
}

/** What every trial has in common, as far as it changes numbers. */
function compareBases(dir: string, before: Sweep, after: Sweep, state: SweepState): Change[] {
  const lists = [
    compareLists(before.config.data.train_list, after.config.data.train_list, 'data.train_list', dir, 'train'),
    compareLists(before.selection_list, after.selection_list, 'selection_list', dir, 'val'),
  ].flat();
  const isVaried = (key: string): boolean =>
    [before, after].every(({ space }) => space.some((part) => part.key === key && Object.keys(part.when).length === 0));
  const changes = findChanges(before.config, after.config, isSameFile).filter(({ key }) => !isVaried(key));
  const counted = new Set(listChanges(before.config, after.config, '').map(({ key }) => key));
  // As it was written: where a size is given that followed before, points that change another key may become others.
  const written = listChanges(before.draft, after.draft, '').filter(({ key }) => !counted.has(key) && !isFree(key));
  if (lists.length + changes.length > 0 || written.length === 0) return [...lists, ...changes];
  const settingsOf = (sweep: Sweep) =>
    makeTrials({ ...sweep, seeds: after.seeds.slice(0, 1) }, listKnown(state)).map(({ settings }) => settings);
  const now = settingsOf(after);
  const isSame = settingsOf(before).every((then, index) => {
    const other = now[index];
    return other !== undefined && findChanges(then, other, isSameFile).length === 0;
  });
  return isSame ? [] : written;
}

/** Lists are what is in them. Of one that was moved, the cohorts that have begun know the hash. */
function compareLists(
  before: string | null,
  after: string | null,
  key: string,
  dir: string,
  which: 'train' | 'val',
): Change[] {
  const changes = listChanges(before, after, key);
  if (changes.length === 0 || before === null || after === null || !existsSync(after)) return changes;
  if (existsSync(before)) return isSameFile(before, after) ? [] : changes;
  const file = join(dir, 'cohorts', 'c0001', 'environment.json');
  const { lists = {} } = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
  return lists[which]?.sha256 === hashFile(after) ? [] : changes;
}

/** Returns what is told of a folder whose sweep goes on with more; undefined where nothing is added. */
export function describeExtension(dir: string, { extended }: SweepChanges): string | undefined {
  return extended.length === 0 ? undefined : `${showPath(dir)} is extended (${describeChanges(extended)}).`;
}

/** Throws UserError where the sweep is another one than the folder's. */
export function refuseChanges(dir: string, { refused, why }: SweepChanges): void {
  if (refused.length === 0) return;
  throw new UserError([
    ...explainChanges(refused, `the sweep in ${showPath(dir)} was planned with`),
    ...why,
    'Take the old values back, or choose another --run-dir.',
  ]);
}
