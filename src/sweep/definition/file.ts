/**
 * Reads a sweep file and makes its trials: YAML in, one explicit plan out. The manners are those of a configuration:
 * `extends`, environment, all problems at once, each with its place. Every point is resolved before anything starts.
 */
import { basename } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { nest } from '../../base/objects.ts';
import { plural } from '../../base/words.ts';
import { checkKeys, describeAllowed, formatProblem, refuseOtherKind, show } from '../../config/keys.ts';
import { makeAbsolute, type OpenConfig, openConfig, UnfitConfig } from '../../config/load.ts';
import { type Kept, resolveWith } from '../../config/resolve.ts';
import type { Config, Params } from '../../config/schema.ts';
import { FORMAT } from '../../config/stored-format.ts';
import { type Entry, readSource } from '../../config/yaml.ts';
import { readExecutor } from '../../executors/schema.ts';
import type { Trial } from '../../run/cohort-types.ts';
import { SWEEP_KEYS, type SweepDraft, sweepSchema } from './schema.ts';
import { checkSelection, type Selection } from './selection.ts';
import { checkSlots } from './slots.ts';
import { drawRandom, MAX_POINTS, makeCorners, makeGrid } from './space.ts';
import { readSpace, splitSpaceKey } from './space-keys.ts';
import type { Point, SpaceKey, Sweep } from './types.ts';

const PATHS = ['base', 'selection_list', 'selection_root'];
/** Points of a round where it is not known how many a cohort holds: two cores are busy with so many for long. */
const DEFAULT_ROUND = 8;
const MAX_SHOWN = 10;

/** What a sweep file says, by section, and what is wrong so far. */
interface Written {
  own: Map<string, Entry>;
  space: Map<string, Entry>;
  set: Map<string, Entry>;
  problems: string[];
  at: (key: string) => string;
}

/** Returns the sweep, and notes on what is allowed but odd. Raises UserError with all problems. */
export function readSweep(
  file: string,
  options: { set?: string[]; env?: NodeJS.ProcessEnv } = {},
): { sweep: Sweep; notes: string[] } {
  const env = options.env ?? process.env;
  const written = readWritten(file, options.set ?? [], env);
  const { problems, at } = written;
  const draft = parseOwn(written);
  const space = readSpace(written.space, draft.method, problems);
  const fail = (key: string, text: string) => void problems.push(formatProblem(at(key), key, text));
  const base = draft.base === '' ? undefined : openBase(draft.base, written, env);
  if (space.length === 0 && problems.length === 0) fail('space', 'nothing is varied. Give at least one key.');
  checkCounts(draft, space, fail);
  if (base === undefined || base instanceof UnfitConfig) throw refuse(problems, base);
  const notes = [...base.notes];
  const selection = checkSelection(draft, base.config, fail);
  if (problems.length > 0) throw refuse(problems, base);
  const sweep = makeSweep(file, draft, space, base, selection, fail);
  const points = sweep.method === 'tpe' ? makeCorners(space) : planPoints(sweep);
  checkPoints(sweep, points, base, written);
  noteOdd(sweep, points.length, at, notes);
  if (problems.length > 0) throw refuse(problems, base);
  return { sweep, notes };
}

/** Returns the error of a sweep file; with the base at hand its lists can be told at once (`addListProblems`). */
function refuse(problems: string[], base: OpenConfig | UnfitConfig | undefined): UserError {
  const all = [...new Set(problems)];
  if (base === undefined) return new UserError(all);
  return new UnfitConfig(all, base.config, base instanceof UnfitConfig ? base.refused : new Set());
}

/** `space.K` and all below it are one unit: values in one file replace a range of the file it extends. */
function unitOf(key: string): string {
  return key.startsWith('space.') ? `space.${splitSpaceKey(key.slice('space.'.length)).key}` : key;
}

function readWritten(file: string, set: string[], env: NodeJS.ProcessEnv): Written {
  const { entries, problems } = readSource(file, set, env, unitOf);
  if (entries.size === 0 && problems.length > 0) throw new UserError(problems);
  refuseOtherKind(file, entries, 'sweep');
  const at = (key: string) => entries.get(key)?.where ?? showPath(file);
  const written: Written = { own: new Map(), space: new Map(), set: new Map(), problems, at };
  for (const [key, entry] of entries) {
    const [section = '', ...rest] = key.split('.');
    if (section !== 'space' && section !== 'set') written.own.set(key, entry);
    else if (rest.length > 0) written[section].set(rest.join('.'), { ...entry, places: entry.places.slice(1) });
    else if (entry.value !== null && JSON.stringify(entry.value) !== '{}')
      problems.push(formatProblem(entry.where, key, `found ${show(entry.value)}. Give keys of the configuration.`));
  }
  return written;
}

/** Returns the keys besides `space` and `set`, refused ones at their defaults; base is '' where it is missing. */
function parseOwn({ own, problems, at }: Written): SweepDraft {
  problems.push(...checkKeys(own, SWEEP_KEYS));
  const values = new Map<string, unknown>();
  for (const [key, entry] of own) {
    if (!SWEEP_KEYS.keys.has(key)) continue;
    problems.push(...entry.problems);
    if (entry.problems.length === 0) values.set(key, PATHS.includes(key) ? makeAbsolute(entry) : entry.value);
  }
  for (const [key, value] of values) {
    if (SWEEP_KEYS.keys.get(key)?.safeParse(value).success) continue;
    problems.push(formatProblem(at(key), key, `found ${show(value)}. Allowed: ${describeAllowed(key, SWEEP_KEYS)}.`));
    values.delete(key);
  }
  if (!values.has('base') && !own.has('base'))
    problems.push(formatProblem(at('base'), 'base', 'not set. Give the training configuration whose keys are varied.'));
  const hasBase = values.has('base');
  const draft = sweepSchema.parse(nest(hasBase ? values : new Map([...values, ['base', '?']])));
  return hasBase ? draft : { ...draft, base: '' };
}

function openBase(file: string, written: Written, env: NodeJS.ProcessEnv): OpenConfig | UnfitConfig | undefined {
  const required = ['data.train_list', 'data.val_list'];
  try {
    return openConfig(file, { env, changes: written.set, required });
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    written.problems.push(...error.problems);
    return error instanceof UnfitConfig ? error : undefined;
  }
}

type Fail = (key: string, text: string) => void;

function checkCounts(draft: SweepDraft, space: SpaceKey[], fail: Fail): void {
  const { method, trials, seeds, bracket, cohort } = draft;
  if (method !== 'grid' && trials === null) fail('trials', `not set. method: ${method} needs how many points to try.`);
  if (trials !== null && trials > MAX_POINTS) fail('trials', `found ${trials}. Allowed: up to ${MAX_POINTS}.`);
  if (Array.isArray(seeds) && new Set(seeds).size < seeds.length) fail('seeds', 'a seed is there twice. Remove one.');
  if (bracket.rungs.some((rung, index) => index > 0 && rung <= (bracket.rungs[index - 1] ?? 0)))
    fail('bracket.rungs', `found ${show(bracket.rungs)}. Give each step once, from small to large.`);
  const numSeeds = Array.isArray(seeds) ? seeds.length : (seeds ?? 1);
  if (cohort.max_trials !== null && cohort.max_trials < numSeeds)
    fail('cohort.max_trials', `${cohort.max_trials} is less than ${numSeeds} seeds, which stay together. Give more.`);
  if (method === 'grid' && makeGrid(space).length > MAX_POINTS)
    fail(
      'space',
      `a grid of more than ${plural(MAX_POINTS, 'point')}. Give fewer values, or method: random with trials.`,
    );
}

function makeSweep(
  file: string,
  draft: SweepDraft,
  space: SpaceKey[],
  base: OpenConfig,
  selection: Selection,
  fail: Fail,
): Sweep {
  const { draft: drafted, config } = base;
  checkSlots(draft, config, fail);
  if (draft.objective === 'map' && config.data.labels !== 'multi')
    fail('objective', 'found "map", which is of data.labels: multi. Allowed with one label a clip: top1, top5.');
  const first = config.train.seed;
  const count = typeof draft.seeds === 'number' ? draft.seeds : 1;
  const seeds = Array.isArray(draft.seeds) ? draft.seeds : Array.from({ length: count }, (_, index) => first + index);
  if (draft.bracket.rungs.length > 0 && !config.model.backbone.freeze)
    fail(
      'bracket.rungs',
      'trials are compared within a cohort, and each that trains its backbone has its own. Remove it.',
    );
  return {
    format: FORMAT,
    name: basename(file).replace(/\.ya?ml$/, ''),
    ...{ file: showPath(file), base: draft.base },
    ...{ method: draft.method, trials: draft.method === 'grid' ? null : draft.trials, seeds, seed: draft.seed },
    ...{ objective: draft.objective ?? (config.data.labels === 'multi' ? 'map' : 'top1'), ...selection },
    bracket: draft.bracket.rungs.length === 0 ? null : draft.bracket,
    tpe: draft.tpe,
    executor: readExecutor(draft.executor),
    cohort: draft.cohort,
    space,
    draft: drafted,
    config,
  };
}

/** Resolves the points, of tpe the corners of the space; tells each problem once, with a point that has it. */
function checkPoints(sweep: Sweep, points: Point[], base: OpenConfig, { space, problems, at }: Written): void {
  const places = new Map([...space].map(([path, entry]) => [splitSpaceKey(path).key, entry]));
  const entries = new Map([...base.entries, ...places]);
  const found = new Map<string, { point: Point; count: number }>();
  const resolve = makeResolver(sweep, entries);
  for (const point of points) {
    const resolved = resolve(point.params);
    for (const problem of [...resolved.problems, ...checkRungs(sweep, resolved.config, entries, at)]) {
      const known = found.get(problem);
      if (known) known.count++;
      else found.set(problem, { point, count: 1 });
    }
  }
  for (const [problem, { point, count }] of [...found].slice(0, MAX_SHOWN)) {
    const more = count > 1 ? `, and at ${count - 1} more` : '';
    const name = sweep.method === 'tpe' ? '' : ` ${point.name}`;
    problems.push(`${problem} So at point${name} (${describeParams(point.params)})${more}.`);
  }
  if (found.size > MAX_SHOWN) problems.push(`${sweep.file}  ${found.size - MAX_SHOWN} more problems of points.`);
}

function checkRungs({ bracket }: Sweep, { train }: Config, entries: Map<string, Entry>, at: Written['at']): string[] {
  const late = bracket?.rungs.filter((rung) => rung >= train.steps) ?? [];
  if (late.length === 0) return []; // asked of every point, and places take time
  const steps = `train.steps ${train.steps} (${entries.get('train.steps')?.where ?? 'default'})`;
  const where = at('bracket.rungs');
  return late.map((rung) =>
    formatProblem(where, 'bracket.rungs', `${rung} is not below ${steps}: the end is evaluated anyway.`),
  );
}

/** Returns `train.lr 0.001, train.steps 300`. */
export function describeParams(params: Params): string {
  const parts = Object.entries(params).map(([key, value]) => `${key} ${show(value)}`);
  return parts.join(', ') || 'nothing varied';
}

function noteOdd({ method, trials, config, file }: Sweep, found: number, at: Written['at'], notes: string[]): void {
  if (method === 'random' && trials !== null && found < trials)
    notes.push(`${at('trials')}  trials: the space has ${plural(found, 'point')} that differ, fewer than ${trials}.`);
  if (!config.model.backbone.freeze)
    notes.push(`${file}  model.backbone.freeze is false: no two trials share a backbone, so each runs alone.`);
}

/** Returns the points that are known beforehand: none of tpe. */
export function planPoints(sweep: Sweep): Point[] {
  if (sweep.method === 'tpe') return [];
  return sweep.method === 'grid' ? makeGrid(sweep.space) : drawRandom(sweep.space, sweep.trials ?? 0, sweep.seed);
}

/** Returns what resolves one point after another: the base with what all trials of the sweep have, and the point's own. */
function makeResolver(sweep: Sweep, entries?: Map<string, Entry>) {
  const { data, eval: evaluation } = sweep.draft;
  const selection = { val_list: sweep.selection_list, val_root: sweep.selection_root };
  const draft = { ...sweep.draft, data: { ...data, ...selection }, eval: { ...evaluation, every: null } };
  const kept: Kept = new Map();
  return (params: Params) => resolveWith(draft, params, entries, kept);
}

/** Returns the trials of the points in their order, one a seed, named from `firstIndex` on. Raises UserError. */
export function makeTrials(sweep: Sweep, points: Point[], firstIndex = 1): Trial[] {
  const resolve = makeResolver(sweep);
  let index = firstIndex;
  return points.flatMap(({ name: point, params }) => {
    const { config, problems } = resolve(params);
    if (problems.length > 0) throw new UserError(problems.map((text) => `${text} So at point ${point}.`));
    // data.seed has followed from the base's train.seed by now: all trials see the same clips.
    return sweep.seeds.map((seed) => {
      const settings = { ...config, train: { ...config.train, seed } };
      return { name: `t${String(index++).padStart(4, '0')}`, point, params, seed, settings };
    });
  });
}

/** Returns a trial's configuration as one would train it alone: with the base's validation list and evaluations. */
export function finalConfig(sweep: Pick<Sweep, 'config'>, { settings }: Pick<Trial, 'settings'>): Config {
  const { val_list, val_root } = sweep.config.data;
  const data = { ...settings.data, val_list, val_root };
  return { ...settings, data, eval: { ...settings.eval, every: sweep.config.eval.every } };
}

/** Returns how many points of tpe are asked at once; `cohortTrials` is what one cohort holds, if that is known. */
export function roundSize(sweep: Sweep, cohortTrials: number | null): number {
  if (sweep.tpe.round !== null) return sweep.tpe.round;
  return cohortTrials === null ? DEFAULT_ROUND : Math.max(1, Math.floor(cohortTrials / sweep.seeds.length));
}
