/** Which keys change a run's numbers, and for whom: what resuming, grouping into cohorts and extending a sweep go by. */

import { isSection, listDifferences } from '../base/objects.ts';
import { plural } from '../base/words.ts';
import { type Config, DECODER_KINDS } from './schema.ts';

/** While the condition holds, nothing that trains or evaluates reads these. */
const IDLE: [RegExp, (config: Config) => boolean][] = [
  [/^prepare\./, () => true],
  [/^model\.backbone\.preset$/, () => true], // a name for sizes, all of which are there
  [/^features\./, ({ data }) => data.features === null],
  [/^data\.stride$/, ({ data }) => data.sampling === 'tsn'],
  [/^data\.interpolation$/, ({ data }) => data.augment === null],
  [/^model\.backbone\.random_seed$/, ({ model }) => model.backbone.weights !== 'random'],
  [/^(model\.backbone\.train_blocks|train\.backbone_lr)$/, ({ model }) => model.backbone.freeze],
  ...Object.entries(DECODER_KINDS).map(([kind, keys]): [RegExp, (config: Config) => boolean] => [
    keys,
    ({ model }) => model.decoder.kind !== kind,
  ]),
];

/**
 * A later command may change these and go on: they change no number, or only its last digits and on purpose. What files
 * hold is compared by itself: lists and class names by their content, weights and caches by their hashes.
 */
const FREE = [
  /^(run|eval|launch)\./,
  /^data\.(num_workers|reader|on_bad_video|max_bad_fraction)$/,
  /^data\.(train_list|val_list|root|train_root|val_root|classes)$/,
  /^model\.backbone\.weights_sha256$/,
  /^train\.(compile|precision)$/,
];

/** Keys of `train` that a trial of a cohort may have for itself, besides all of `model` behind the backbone. */
const TRIAL_TRAIN_KEYS = [
  ...['lr', 'backbone_lr', 'weight_decay', 'decay_all', 'warmup_steps', 'clip_grad_norm'],
  ...['class_weights', 'label_smoothing', 'ema_decay', 'seed'],
];
const OF_TRIAL = new RegExp(`^model\\.(decoder|temporal|head)\\.|^train\\.(${TRIAL_TRAIN_KEYS.join('|')})$`);

export interface Change {
  key: string;
  before: string;
  after: string;
}

/** Returns the changes from one configuration to another that change numbers; `isSameFile` compares weights. */
export function findChanges(
  before: Config,
  after: Config,
  isSameFile: (before: string, after: string) => boolean,
): Change[] {
  const isIdle = (key: string): boolean => [before, after].every((config) => findIdle(key)?.(config));
  return listChanges(before, after, '').filter(({ key }) => {
    if (isFree(key) || isIdle(key)) return false;
    // Of a cache each record's making is in its key, which is compared when it is opened.
    if (key === 'data.features') return before.data.features === null || after.data.features === null;
    if (key !== 'model.backbone.weights') return true;
    const files = [before, after].map(({ model }) => model.backbone.weights) as [string, string];
    return files.includes('random') || !isSameFile(...files);
  });
}

export const isFree = (key: string): boolean => FREE.some((pattern) => pattern.test(key));

function findIdle(key: string): ((config: Config) => boolean) | undefined {
  return IDLE.find(([pattern]) => pattern.test(key))?.[1];
}

/** Returns the keys in which two nested objects differ. */
export function listChanges(before: unknown, after: unknown, key: string): Change[] {
  const show = (value: unknown): string => JSON.stringify(value) ?? 'absent';
  return listDifferences([before, after], key).map(({ key: own, values: [then, now] }) => ({
    ...{ key: own, before: show(then), after: show(now) },
  }));
}

const MAX_TOLD = 20; // of a run of another kind every key differs

/** Returns `train.lr: 0.001 then, 0.002 now; ...`. */
export function describeChanges(changes: Change[]): string {
  const told = changes.slice(0, MAX_TOLD).map(({ key, before, after }) => `${key}: ${before} then, ${after} now`);
  return [...told, ...countMore(changes)].join('; ');
}

/** Returns a line for each change that keeps `what` from going on. */
export function explainChanges(changes: Change[], what: string): string[] {
  const told = changes.slice(0, MAX_TOLD).map(({ key, before, after }) => `${key}  is ${after}; ${what} ${before}.`);
  return [...told, ...countMore(changes)];
}

const countMore = ({ length }: Change[]): string[] =>
  length > MAX_TOLD ? [`${plural(length - MAX_TOLD, 'key')} more differ`] : [];

/** Returns what all trials of a cohort have in common: dotted keys with their values, without what nothing reads. */
export function listShared(config: Config): Map<string, string> {
  const shared = new Map<string, string>();
  for (const [key, text] of toTexts(config, '')) {
    const { isOfTrial, isIdle } = roleOf(key);
    if (!isOfTrial && !isIdle?.(config)) shared.set(key, text);
  }
  return shared;
}

interface Role {
  isOfTrial: boolean;
  isIdle: ((config: Config) => boolean) | undefined;
}
const roles = new Map<string, Role>();

function roleOf(key: string): Role {
  const role = roles.get(key) ?? { isOfTrial: OF_TRIAL.test(key), isIdle: findIdle(key) };
  roles.set(key, role);
  return role;
}

/** Thousands of trials hold the same sections: each is written out once. */
const texts = new WeakMap<object, [string, string][]>();

function toTexts(section: object, prefix: string): [string, string][] {
  const known = texts.get(section);
  if (known !== undefined) return known;
  const found = Object.entries(section).flatMap(([name, value]: [string, unknown]): [string, string][] => {
    return isSection(value) ? toTexts(value, `${prefix}${name}.`) : [[`${prefix}${name}`, JSON.stringify(value)]];
  });
  texts.set(section, found);
  return found;
}
