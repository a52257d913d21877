/** Which trials may share a cohort: what the planning of a sweep and the check of a cohort file go by. */

import { listShared } from '../config/effects.ts';
import type { Config } from '../config/schema.ts';
import type { Trial } from './cohort-types.ts';

/** Returns a text that is equal for configurations that read the same clips, features and schedule. */
export const keyOfShared = (config: Config): string => [...listShared(config)].join();

/** A trained backbone belongs to one trial. */
const sharesBackbone = ({ model }: Config): boolean => model.backbone.freeze;

/** Returns a text that is equal for trials that may share a cohort. */
export function keyOfCohort({ name, settings }: Pick<Trial, 'name' | 'settings'>): string {
  return sharesBackbone(settings) ? keyOfShared(settings) : name;
}

/** Returns what keeps trials from sharing a cohort, each key once; nothing where all have one keyOfCohort. */
export function explainApart([first, ...others]: Pick<Trial, 'name' | 'settings'>[]): string[] {
  if (first === undefined || others.length === 0) return [];
  const problems = [first, ...others].every(({ settings }) => sharesBackbone(settings))
    ? []
    : ['model.backbone.freeze: is false; a trained backbone belongs to one trial. Give each such trial a cohort.'];
  const expected = listShared(first.settings);
  const told = new Set<string>();
  for (const { name, settings } of others) {
    const shared = listShared(settings);
    for (const key of new Set([...expected.keys(), ...shared.keys()])) {
      const [value, wanted] = [shared.get(key), expected.get(key)];
      if (value === wanted || told.has(key)) continue;
      told.add(key);
      const both = `is ${value} in trial ${name} and ${wanted} in ${first.name}`;
      problems.push(`${key}: ${both}. Trials of a cohort share it: put them into two cohorts.`);
    }
  }
  return problems;
}
