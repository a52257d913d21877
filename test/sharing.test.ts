/** Which trials may share a cohort: the planning of a sweep and the check of a cohort file say the same of every key. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { flatten, replaceKeys } from '../src/base/objects.ts';
import { loadConfig } from '../src/config/load.ts';
import type { Config } from '../src/config/schema.ts';
import { explainApart, keyOfCohort } from '../src/run/sharing.ts';
import { writeConfig } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'sharing-test-'));
const base = loadConfig(writeConfig(folder)).config;
afterAll(() => rmSync(folder, { recursive: true }));

const other = (value: unknown): unknown => {
  if (typeof value === 'boolean') return !value;
  if (typeof value === 'number') return value + 1;
  if (Array.isArray(value)) return [...value, 1];
  return value === 'another' ? 'other' : 'another';
};
const pairWith = (key: string, value: unknown): { name: string; settings: Config }[] => [
  { name: 't1', settings: base },
  { name: 't2', settings: replaceKeys(base, [[key, other(value)]]) },
];
const keysThat = (share: boolean): string[] =>
  flatten(base)
    .filter(([key, value]) => (new Set(pairWith(key, value).map(keyOfCohort)).size === 1) === share)
    .map(([key]) => key);

test('both say the same of every key', () => {
  const apart = flatten(base).filter(([key, value]) => explainApart(pairWith(key, value)).length > 0);
  expect(apart.map(([key]) => key)).toEqual(keysThat(false));
});

test('what a trial has for itself and what nothing reads keeps none apart; clips, backbone and schedule do', () => {
  const shared = keysThat(true);
  expect(shared).toEqual(
    expect.arrayContaining([
      'train.lr',
      'train.seed',
      'model.head.dropout',
      'prepare.crf',
      'prepare.gop',
      'features.form',
    ]),
  );
  expect(
    shared.filter((key) =>
      /^(data\.(train_list|num_frames|size)|train\.(steps|batch_size)|model\.backbone\.width)$/.test(key),
    ),
  ).toEqual([]);
});
